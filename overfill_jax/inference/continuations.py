"""How likely given continuations of prompts are: the reader reads the prompt, the writer goes on.

The same passes as in generation, with the continuation's tokens in the place of the writer's own.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from tqdm.auto import tqdm

from overfill_jax.data.tokenizers import Ids
from overfill_jax.inference.buckets import bucket
from overfill_jax.inference.compiled import Pairing, compilations
from overfill_jax.inference.generation import Generator, check_prompt
from overfill_jax.inference.refresh_loss import judge_refreshed, judged_as
from overfill_jax.inference.serving_cache import ServingCache
from overfill_jax.inference.serving_model import ServingModel, extend, logits_of, prefill

# Tokens of a continuation that are read in one pass: their attention and logits exist at a time.
CONTINUATION_CHUNK = 64
SMALLEST_CONTINUATION_BUCKET = 4


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Of a continuation: its log-probability in nats, and whether greedy writing would give it."""

    log_probability: float
    greedy: bool


def likelihoods(
    generator: Generator,
    prompts: Sequence[Ids],
    continuations: Sequence[Ids],
    batch_size: int,
    show_progress: bool = False,
) -> list[Likelihood]:
    """Of every continuation behind its prompt, in their order; 0 and True for an empty one.

    Each token counts as whoever gives it says: the first one, and those of a refresh.

    Raises:
      InputError: as `check_prompt`, and as `judged_as` of the generator's refresh.
    """
    reader, writer, how = generator.pair
    refresh = None if generator.refresh is None else judged_as(generator.refresh)
    if refresh is not None and refresh.interval == 1:
        # The full model's own, which need not be read token by token.
        writer, refresh = reader, None
        how = Pairing(None, reader.config.dtype, "full", reads_on=False)
    found = [Likelihood(0.0, True)] * len(prompts)
    rows = [row for row, continuation in enumerate(continuations) if len(continuation)]
    for row in rows:
        for model in (reader, writer):
            check_prompt(prompts[row], len(continuations[row]), model.config, f"prompt {row}")
    # Rows of like length share a batch, so that little of it is padding.
    rows.sort(key=lambda row: (-len(continuations[row]), -len(prompts[row])))
    for start in tqdm(range(0, len(rows), batch_size), unit=" batches", disable=not show_progress):
        batch = rows[start : start + batch_size]
        size = min(bucket(len(batch), smallest=1), batch_size)
        read, lengths = generator.padded([prompts[row] for row in batch], size)
        slots = bucket(len(continuations[batch[0]]), SMALLEST_CONTINUATION_BUCKET)
        written = np.zeros((len(read), slots), np.int32)
        for number, row in enumerate(batch):
            written[number, : len(continuations[row])] = continuations[row]
        with jax.set_mesh(generator.mesh):
            asked = reader, writer, read, lengths, written, how
            judged = judge(*asked) if refresh is None else judge_refreshed(*asked, refresh)
        log_p, greedy = map(np.asarray, judged)
        for number, row in enumerate(batch):
            length = len(continuations[row])
            total = log_p[number, :length].astype(np.float64).sum()
            found[row] = Likelihood(float(total), bool(greedy[number, :length].all()))
    return found


@functools.partial(jax.jit, static_argnames="how")
def judge(
    reader: ServingModel,
    writer: ServingModel,
    prompts: Int[Array | np.ndarray, "B P"],
    lengths: Int[Array | np.ndarray, "B"],
    continuations: Int[Array | np.ndarray, "B R"],
    how: Pairing,
) -> tuple[Float[Array, "B R"], Bool[Array, "B R"]]:
    """Log-probability of every token of the continuations, and whether it is the likeliest one."""
    compilations["judge"] += 1
    at, slots = jnp.maximum(lengths - 1, 0), prompts.shape[1] + continuations.shape[1]
    hidden, read = prefill(reader, prompts, lengths, slots, wanted=at)
    cache = read.crossing(how.kept).astype(how.dtype)
    if how.first_token == "decoder":  # which reads the prompt's last token itself, as in hand_over
        last = jnp.take_along_axis(prompts, at[:, None], axis=1)
        tokens = jnp.concatenate([last, continuations[:, :-1]], axis=1)
        return _write(writer, tokens, continuations, dataclasses.replace(cache, lengths=at))
    first = _compare(logits_of(reader, hidden[:, 0]), continuations[:, 0])
    rest = _write(writer, continuations, jnp.roll(continuations, -1, axis=1), cache)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:, None], b[:, :-1]], axis=1), first, rest)


def _write(
    writer: ServingModel, tokens: Int[Array, "B R"], targets: Int[Array, "B R"], cache: ServingCache
) -> tuple[Float[Array, "B R"], Bool[Array, "B R"]]:
    """What the writer, reading `tokens` behind the cache, thinks of each target."""
    rows, slots = tokens.shape
    chunk = slots if slots <= CONTINUATION_CHUNK else math.gcd(slots, CONTINUATION_CHUNK)

    def step(cache, piece):
        tokens, targets = piece
        hidden, cache = extend(writer, tokens, cache)
        cache = dataclasses.replace(cache, lengths=cache.lengths + chunk)
        return cache, _compare(logits_of(writer, hidden), targets)

    pieces = (array.reshape(rows, -1, chunk).swapaxes(0, 1) for array in (tokens, targets))
    _, found = jax.lax.scan(step, cache, tuple(pieces))
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(rows, slots), found)


def _compare(
    logits: Float[Array, "... V"], targets: Int[Array, "..."]
) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    log_p = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return chosen, targets == jnp.argmax(logits, axis=-1)
