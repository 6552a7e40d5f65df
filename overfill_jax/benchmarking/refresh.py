"""What refresh buys and costs: loss, answers and time of a workdir's pairs under each policy."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from overfill_jax.benchmarking.task_answers import accuracy_of, agreement, answers_of, matches
from overfill_jax.evaluation.accuracy import accuracy_by_length
from overfill_jax.evaluation.answer_loss import AnswerLoss, Loss, answer_loss
from overfill_jax.evaluation.plots import finish, save
from overfill_jax.evaluation.systems import FULL
from overfill_jax.evaluation.task import Task, load_task
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.refresh import Refresh, Tally
from overfill_jax.inference.refresh_loss import refreshed_log_likelihoods
from overfill_jax.inference.serving_model import lay_out
from overfill_jax.model.size import decode_parameters
from overfill_jax.model.transformer import Model
from overfill_jax.weights.folders import check_pair, load_model

# Of each decoder: colour, marker, dashes.
LINES = (("#D55E00", "o", "-"), ("#0072B2", "s", "--"), ("#009E73", "^", ":"))


@dataclasses.dataclass(frozen=True)
class PolicyResult:
    """One policy on the whole task.

    Attributes:
      decoder: its folder; "full" for the full model alone.
      name: of the policy.
      interval: answer tokens from one refresh to the next at most; None without refresh.
      loss: nats per token of the reference answers; None for verified policies, whose answers
        are not the decoder's to lose.
      positions: the same at each place of the answer; empty for verified policies.
      accuracy: share of greedy answers that match, the mean over the families.
      by_length: mean words of the reference and accuracy, of each quarter of the rows.
      as_full: share of answers that equal the full model's, token for token.
      acceptance: share of the drafted tokens that stood; None where nothing was drafted.
      speed_up: over the full model, implied by the weights' bytes that a token reads.
      seconds: of all the answers.
      time_speed_up: over the full model, measured here.
    """

    decoder: str
    name: str
    interval: int | None
    loss: float | None
    positions: list[Loss]
    accuracy: float
    by_length: list[tuple[float, float]]
    as_full: float
    acceptance: float | None
    speed_up: float
    seconds: float
    time_speed_up: float


def time_refresh(config: ml_collections.ConfigDict, workdir: Path) -> list[PolicyResult]:
    """Every policy of `benchmark.intervals` on `evaluate.source`, with each of the decoders.

    The full model alone comes first.

    Raises:
      InputError: a decoder was made for another full model.
    """
    task, _ = load_task(config, workdir)
    place, dtype = workdir / FULL.reader, config.evaluate.dtype
    full = load_model(place, dtype)
    alone, seconds, _ = answers_of(full, full, task, None, "")
    loss = loss_of(full, full, task, Refresh(1))
    found = [
        PolicyResult(
            decoder=FULL.reader,
            name="full model alone",
            interval=1,
            loss=loss.total.loss,
            positions=loss.positions,
            accuracy=accuracy_of(alone, task),
            by_length=by_length(alone, task),
            as_full=1.0,
            acceptance=None,
            speed_up=1.0,
            seconds=seconds,
            time_speed_up=1.0,
        )
    ]
    for folder in config.benchmark.decoders:
        check_pair(place, workdir / folder, task.first_token)
        decoder = load_model(workdir / folder, dtype)
        found += time_decoder(full, decoder, task, folder, policies(config), alone, seconds)
    return found


def time_decoder(
    full: Model,
    decoder: Model,
    task: Task,
    folder: str,
    policies: Sequence[tuple[str, Refresh | None]],
    alone: Sequence[Answer],
    seconds: float,
) -> list[PolicyResult]:
    """Every policy with one decoder, against what the full model answers `alone` in `seconds`."""
    share = decode_parameters(decoder.config) / decode_parameters(full.config)
    found = []
    for name, refresh in policies:
        answers, taken, generator = answers_of(full, decoder, task, refresh, "")
        verified = refresh is not None and refresh.verifies
        tally = generator.tally
        loss = None if verified else loss_of(full, decoder, task, refresh)
        found.append(
            PolicyResult(
                decoder=folder,
                name=name,
                interval=refresh and refresh.interval,
                loss=loss and loss.total.loss,
                positions=loss.positions if loss else [],
                accuracy=accuracy_of(answers, task),
                by_length=by_length(answers, task),
                as_full=agreement(answers, alone),
                acceptance=tally.kept / tally.drafted if tally.drafted else None,
                speed_up=implied_speed_up(answers, tally, share) if refresh else 1 / share,
                seconds=taken,
                time_speed_up=seconds / taken,
            )
        )
    return found


def by_length(answers: Sequence[Answer], task: Task) -> list[tuple[float, float]]:
    """Accuracy by the length of the reference."""
    return accuracy_by_length([one.reference for one in task.examples], matches(answers, task))


def policies(config: ml_collections.ConfigDict) -> list[tuple[str, Refresh | None]]:
    """No refresh, every so many tokens, where unsure, and the same intervals verified."""
    c = config.benchmark
    intervals = c.intervals
    every = [(f"every {interval}", Refresh(interval)) for interval in sorted(intervals)[::-1]]
    longest = max(intervals)
    unsure = [
        (f"entropy {entropy:g}, every {longest}", Refresh(longest, float(entropy)))
        for entropy in sorted(c.entropies)[::-1]
    ]
    lossless = [
        (f"verified, every {interval}", Refresh(interval, math.inf, 1.0))
        for interval in sorted(intervals)[::-1]
        if interval > 1  # one token is the full model's own
    ]
    return [("none", None), *every, *unsure, *lossless]


def implied_speed_up(answers: Sequence[Answer], tally: Tally, share: float) -> float:
    """Over the full model, if time were the bytes of weights that are read.

    The full model alone is read once for every token of the answers, stop tokens included, but the
    first, which prefill gives. A block reads the decoder once for every token that it drafts, and
    the full model once.
    """
    tokens = sum(len(one.tokens) + (one.reason == "stop") - 1 for one in answers)
    if not tally.blocks:  # prefill has given every answer whole
        return 1.0
    return tokens / (tally.blocks + share * tally.drafted)


def loss_of(full: Model, decoder: Model, task: Task, refresh: Refresh | None) -> AnswerLoss:
    """Of the reference answers."""
    refresh = refresh or Refresh(2**30)
    reader, writer = lay_out(full), lay_out(decoder)
    slots = max(len(example.answer) for example in task.examples)
    width = slots + max(len(example.prompt) for example in task.examples)
    found = []
    for start in range(0, len(task.examples), task.batch_size):
        examples = task.examples[start : start + task.batch_size]
        rows = np.resize(np.arange(len(examples)), task.batch_size)  # one shape for all
        tokens = np.zeros((task.batch_size, width), np.int32)
        for row, index in enumerate(rows):
            whole = np.concatenate([examples[index].prompt, examples[index].answer])
            tokens[row, : len(whole)] = whole
        likelihoods, _ = refreshed_log_likelihoods(
            reader,
            writer,
            jnp.asarray(tokens),
            jnp.asarray([len(examples[index].prompt) for index in rows]),
            jnp.int32(refresh.interval),
            refresh.arguments()["entropy"],
            slots=slots,
            first_token=task.first_token,
            dtype=decoder.config.dtype,
        )
        found.append(np.asarray(likelihoods)[: len(examples)])
    lengths = np.array([len(example.answer) for example in task.examples])
    return answer_loss(
        np.concatenate(found), lengths, [example.family for example in task.examples]
    )


def plot_refresh(found: Sequence[PolicyResult], path: Path) -> None:
    """Loss against the interval, and against the speed-up that the bytes imply, by decoder."""
    figure = Figure(figsize=(10.4, 4.6), layout="constrained")
    by_interval, by_speed = figure.subplots(1, 2, sharey=True)
    shown = [one for one in found if one.loss is not None and one.decoder != FULL.reader]
    intervals = sorted({one.interval for one in shown if one.interval})
    never = 2 * intervals[-1]
    decoders = list(dict.fromkeys(one.decoder for one in shown))
    for decoder, (colour, marker, dashes) in zip(decoders, itertools.cycle(LINES)):
        own = [one for one in shown if one.decoder == decoder]
        line = [one for one in own if not one.name.startswith("entropy")]
        line.sort(key=lambda one: one.interval or never)
        losses, style = (
            [one.loss for one in line],
            {"color": colour, "ls": dashes, "marker": marker},
        )
        by_interval.plot([one.interval or never for one in line], losses, **style, label=decoder)
        by_speed.plot([one.speed_up for one in line], losses, **style)
        for one in own:
            if one not in line:
                by_speed.plot(one.speed_up, one.loss, "D", mfc="none", color=colour)
        if len(decoders) == 1:
            for one in own:
                by_speed.annotate(one.name, (one.speed_up, one.loss), (5, 5),
                                  textcoords="offset points", fontsize=9)  # fmt: skip
    by_interval.set_xscale("log", base=2)
    by_interval.set_xticks([*intervals, never], [*map(str, intervals), "never"])
    by_interval.set_yscale("log")  # of decoders to be refreshed it is as low as the full model's
    finish(by_interval, "answer tokens from one refresh to the next", "loss (nats/token)")
    finish(by_speed, "tokens a second over the full model's, by bytes of weights", "")
    if len(decoders) > 1:
        by_interval.legend(frameon=False, fontsize=9, title="decoder")
    figure.suptitle("What refresh buys, and what it costs (diamonds: by entropy)", fontsize=11)
    save(figure, path)
