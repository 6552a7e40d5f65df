"""What fewer bits cost and save: the workdir's pair with integers for weights and cache."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np
from matplotlib.figure import Figure

from overfill_jax.benchmarking.logits_error import logits_errors
from overfill_jax.benchmarking.systems import cached_bytes, read_bytes
from overfill_jax.benchmarking.task_answers import accuracy_of, agreement, answers_of
from overfill_jax.evaluation.plots import finish, save
from overfill_jax.evaluation.systems import FULL
from overfill_jax.evaluation.task import Task, load_task
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.generation import Generator
from overfill_jax.model.quantised import BITS, Scheme, check_scheme, quantise_model, scheme_of
from overfill_jax.model.transformer import Model
from overfill_jax.weights.folders import check_pair, load_model

# Of the points, by bits of the weights: 16 stands for those of the computation.
COLOURS = {16: "#333333", 8: "#0072B2", 4: "#D55E00"}
MARKERS = {False: "o", True: "s"}  # by whether groups have scales of their own


@dataclasses.dataclass(frozen=True)
class PrecisionResult:
    """The pair with one choice of numbers, on the whole task.

    Attributes:
      full: of the full model's weights, as are
      weights: the decoder's; and
      cache: what the decoder reads behind the handoff.
      bits, grouped: of the decoder's weights; 16 for those of the computation.
      accuracy: share of greedy answers that match, the mean over the families.
      as_exact: share of answers that equal the pair's without integers, token for token.
      median_error, worst_error: of all answer tokens' logits, relative to those of that pair;
        behind the same tokens.
      bytes: that the decoder reads for an answer token at batch 1, of weights and cache, half an
        answer written.
      seconds: of all the answers.
    """

    full: str
    weights: str
    cache: str
    bits: int
    grouped: bool
    accuracy: float
    as_exact: float
    median_error: float
    worst_error: float
    bytes: float
    seconds: float


def time_precision(config: ml_collections.ConfigDict, workdir: Path) -> list[PrecisionResult]:
    """Both caches with every width of the decoder's weights, then an int8 full model.

    On the rows of `evaluate.source`; the pair without integers comes first.

    Raises:
      InputError: the decoder was made for another full model, or a group of `benchmark.groups`
        does not divide its widths.
    """
    task, _ = load_task(config, workdir)
    (folder, *_), dtype = config.benchmark.decoders, config.evaluate.dtype
    check_pair(workdir / FULL.reader, workdir / folder, task.first_token)
    full, decoder = (load_model(workdir / name, dtype) for name in (FULL.reader, folder))
    schemes = [Scheme(bits, group) for bits in BITS for group in config.benchmark.groups]
    for scheme in schemes:
        check_scheme(decoder.config, scheme)
    exact = answers_of(full, decoder, task, None, "")
    found = [
        measure(task, exact, full, writer, cache)
        for writer in (decoder, *(quantise_model(decoder, scheme) for scheme in schemes))
        for cache in ("", "int8")
    ]
    return [*found, measure(task, exact, quantise_model(full, Scheme(8, 0)), decoder, "")]


def measure(
    task: Task,
    exact: tuple[list[Answer], float, Generator],
    reader: Model,
    writer: Model,
    cache: str,
) -> PrecisionResult:
    """One pair, against what `answers_of` gave for the `exact` one."""
    exact_answers, _, exact_pair = exact
    answers, seconds, generator = answers_of(reader, writer, task, None, cache)
    errors = logits_errors(exact_pair, generator, task.examples, task.batch_size)
    scheme = scheme_of(writer.params)
    context = np.mean([len(one.prompt) + len(one.answer) / 2 for one in task.examples])
    return PrecisionResult(
        full=name_of(reader),
        weights=name_of(writer),
        cache=cache or writer.config.dtype,
        bits=scheme.bits if scheme else 16,
        grouped=bool(scheme and scheme.group),
        accuracy=accuracy_of(answers, task),
        as_exact=agreement(answers, exact_answers),
        median_error=float(np.median(errors)),
        worst_error=float(errors.max()),
        bytes=float(read_bytes(writer) + context * cached_bytes(writer.config, cache)),
        seconds=seconds,
    )


def name_of(model: Model) -> str:
    """Of its numbers, such as "int4, groups of 128"."""
    scheme = scheme_of(model.params)
    if scheme is None:
        return model.config.dtype
    return f"int{scheme.bits}" + (f", groups of {scheme.group}" if scheme.group else "")


def plot_precision(found: Sequence[PrecisionResult], path: Path) -> None:
    """Accuracy and logits' error against the bytes of a token; hollow with an int8 cache."""
    figure = Figure(figsize=(10.4, 4.6), layout="constrained")
    by_accuracy, by_error = figure.subplots(1, 2)
    exact = found[0]
    shown = [one for one in found if one.full == exact.full]
    for one in shown:
        style = {
            "color": COLOURS[one.bits],
            "marker": MARKERS[one.grouped],
            "ls": "",
            "ms": 8,
            "mfc": COLOURS[one.bits] if one.cache == exact.cache else "none",
            "label": one.weights if one.cache == exact.cache else None,
        }
        share = one.bytes / exact.bytes
        by_accuracy.plot(share, one.accuracy, **style)
        if one.median_error > 0:  # that of the exact pair itself
            by_error.plot(share, one.median_error, **style)
    best = [
        (one.bytes / exact.bytes, one.accuracy)
        for one in sorted(shown, key=lambda one: one.bytes)
        if one.accuracy > max((o.accuracy for o in shown if o.bytes < one.bytes), default=-1.0)
    ]
    by_accuracy.step(*zip(*best, strict=True), where="post", color="#999999", lw=1, zorder=0)
    by_accuracy.set_ylim(0, 1.05)
    by_error.set_yscale("log")
    finish(by_accuracy, "bytes read for a token, of the pair's without integers", "accuracy")
    finish(by_error, "bytes read for a token, of the pair's without integers", "error of logits")
    by_accuracy.legend(frameon=False, fontsize=9, title="decoder's weights", loc="lower right")
    figure.suptitle("What fewer bits cost and save (hollow: int8 cache)", fontsize=11)
    save(figure, path)
