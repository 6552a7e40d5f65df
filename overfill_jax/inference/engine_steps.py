"""The compiled functions of the engine beside `write_chunk`: prompts are read and take slots.

A prompt, or a few short ones, is read into a cache of its own, the first chunk by the kernels of
prefill, the others against what was read before; the full model gives the first token; then each
row takes the place of one that has ended, while the others stand still. The rows are rearranged
where there are to be more or fewer of them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from overfill_jax.inference.compiled import Pairing, Writing, compilations, hand_over
from overfill_jax.inference.placement import keep
from overfill_jax.inference.sampling import row_keys
from overfill_jax.inference.serving_cache import AXES, ServingCache, empty_cache
from overfill_jax.inference.serving_model import ServingModel, extend, prefill
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import constrain


@functools.partial(jax.jit, static_argnames=("reader", "writer", "how", "rows", "slots"))
def empty_slots(
    reader: ModelConfig, writer: ModelConfig, how: Pairing, rows: int, slots: int
) -> Writing:
    """Rows that have ended before they began."""
    compilations["empty_slots"] += 1
    zeros = jnp.zeros(rows, jnp.int32)
    cache = empty_cache(writer, rows, slots, how.dtype)
    full = empty_cache(reader, rows, slots, reader.dtype) if how.keeps_full(reader) else None
    return Writing(cache, zeros, row_keys(jnp.uint32(0), zeros), zeros, full)


@functools.partial(jax.jit, static_argnames="slots")
def read_first(
    reader: ServingModel, tokens: Int[Array, "B T"], counts: Int[Array, "B"], slots: int
) -> tuple[Float[Array, "B D"], ServingCache]:
    """Reads the first `counts[b]` tokens of each prompt into a new cache, as `prefill` reads.

    Returns the last ones' hidden state, and the cache.
    """
    compilations["read_first"] += 1
    hidden, cache = prefill(reader, tokens, counts, slots, wanted=jnp.maximum(counts - 1, 0))
    return hidden[:, 0], keep(cache)


# The caches are donated: there is one of the prompt and one of the slots.
@functools.partial(jax.jit, static_argnames="seen", donate_argnames="cache")
def read_chunk(
    reader: ServingModel,
    tokens: Int[Array, "B T"],
    cache: ServingCache,
    counts: Int[Array, "B"],
    seen: int,
) -> tuple[Float[Array, "B D"], ServingCache]:
    """Reads `counts[b]` more tokens of each prompt: the last ones' hidden state, and the cache.

    What lies behind them in `tokens` is written into slots that later tokens take. With those the
    prompt has filled `seen` slots at most; the others are not looked at.
    """
    compilations["read_chunk"] += 1
    hidden, cache = extend(reader, tokens, cache, seen, wanted=jnp.maximum(counts - 1, 0))
    return hidden[:, 0], dataclasses.replace(cache, lengths=cache.lengths + counts)


@functools.partial(jax.jit, static_argnames="how")
def begin_answers(
    reader: ServingModel,
    hidden: Float[Array, "B D"],
    token: Int[Array, "B"],
    read: ServingCache,
    seeds: UInt[Array, "B"],
    limits: dict[str, Array],
    how: Pairing,
) -> Writing:
    """The handoff of `compiled.hand_over`; every row draws as row 0 of a batch of its own."""
    compilations["begin_answers"] += 1
    keys = jax.vmap(lambda seed: row_keys(seed, jnp.zeros(1, jnp.int32))[0])(seeds)
    return hand_over(reader, hidden, token, read, keys, limits, how)


@functools.partial(jax.jit, donate_argnames="writing")
def take_slot(
    writing: Writing, rows: Writing, index: Int[Array, ""], slot: Int[Array, ""]
) -> Writing:
    """Puts one of `rows` in a slot, whose entries behind the row's own are never seen again."""
    compilations["take_slot"] += 1

    def put(all_rows: Array, some: Array) -> Array:
        one = jax.lax.dynamic_slice_in_dim(some, index, 1, axis=0)
        if one.ndim > 1:  # the cache of a prompt may have more slots than it has tokens
            one = one[:, :, : all_rows.shape[2]]
        return jax.lax.dynamic_update_slice_in_dim(all_rows, one, slot, axis=0)

    return keep(jax.tree.map(put, writing, rows))


def rearrange(writing: Writing, order: Int[np.ndarray, "R"]) -> Writing:
    """Those rows of the slots, in that order; the arrays of all of them are given up.

    One array at a time, so that there are never twice as many caches.
    """

    def given_up(array: Array) -> Array:
        taken = _take(array, order)
        array.delete()
        return taken

    return jax.tree.map(given_up, writing)


@jax.jit
def _take(array: Array, order: Int[Array, "R"]) -> Array:
    compilations["rearrange"] += 1
    taken = jnp.take(array, order, axis=0, mode="clip")
    return constrain(taken, *(*AXES, None)[: array.ndim])
