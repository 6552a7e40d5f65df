"""The two compiled functions of generation: one reads the prompts, one writes the answers.

Everything that differs between calls of one shape is an argument, so that a shape is compiled once;
`buckets.py` keeps the shapes few.
"""

import collections
import dataclasses
import functools
from dataclasses import field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from overfill_jax.inference.placement import axes, keep
from overfill_jax.inference.sampling import row_keys, sample
from overfill_jax.inference.serving_cache import ServingCache
from overfill_jax.inference.serving_model import (
    ServingModel,
    extend,
    logits_of,
    of_one_token,
    prefill,
)
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.handoff import Handoff

# Most tokens that one call of the loop writes before the host looks at them: few enough that a
# stop string ends an answer soon, enough that the round trip costs nothing.
CHUNK = 16
NO_TOKEN = -1

# How often each function was compiled: its body runs once per compilation.
compilations: collections.Counter[str] = collections.Counter()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Writing:
    """Where the writer stands: everything that one chunk hands to the next.

    Attributes:
      cache: of all that was read and written, but `token`.
      token: the newest token of each row, which the writer reads next.
      keys: of each row's draws.
      step: tokens of each answer so far.
      full: the full model's own cache, where it reads on and the decoder's is another.
    """

    cache: ServingCache
    token: Int[Array, "B"] = field(metadata=axes("batch"))
    keys: Key[Array, "B"] = field(metadata=axes("batch"))
    step: Int[Array, "B"] = field(metadata=axes("batch"))
    full: ServingCache | None = None

    def grow(self, slots: int) -> "Writing":
        """The same with `slots` slots a row; the arrays of the caches are given up."""
        full = None if self.full is None else self.full.grow(slots)
        return dataclasses.replace(self, cache=self.cache.grow(slots), full=full)


@dataclasses.dataclass(frozen=True)
class Pairing:
    """How a reader and a writer are joined; static.

    Attributes:
      kept: what crosses, None for all of it.
      dtype: of the decoder's cache, as `ServingCache.astype`.
      first_token: who gives it.
      reads_on: the full model refreshes the answers.
    """

    kept: Handoff | None
    dtype: str
    first_token: Literal["full", "decoder"]
    reads_on: bool

    def keeps_full(self, full: ModelConfig) -> bool:
        """Whether the full model needs a cache of its own: the decoder's has not all of it, or has
        it rounded."""
        rounded = jnp.promote_types(full.dtype, self.dtype).name != self.dtype
        return self.reads_on and (self.kept is not None or rounded)


@functools.partial(jax.jit, static_argnames=("how", "slots"))
def read_prompts(
    reader: ServingModel,
    prompts: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    seed: UInt[Array, ""],
    rows: Int[Array, "B"],
    limits: dict[str, Array],
    how: Pairing,
    slots: int,
) -> Writing:
    """Prefill and handoff, and from the full model the first answer token; see `hand_over`."""
    compilations["read_prompts"] += 1
    last = jnp.maximum(lengths - 1, 0)
    hidden, read = prefill(reader, prompts, lengths, slots, wanted=last)
    token, keys = of_one_token(prompts, last), row_keys(seed, rows)
    return keep(hand_over(reader, hidden[:, 0], token, read, keys, limits, how))


def hand_over(
    reader: ServingModel,
    hidden: Float[Array, "B D"],
    token: Int[Array, "B"],
    read: ServingCache,
    keys: Key[Array, "B"],
    limits: dict[str, Array],
    how: Pairing,
) -> Writing:
    """Where the writer begins behind prompts of which `hidden` and `token` are the last.

    Where the decoder is to give the first answer token, the cache crosses without the prompt's last
    token, which the decoder reads itself: it is the token that it reads next.
    """
    cache = read.crossing(how.kept).astype(how.dtype)
    full = read if how.keeps_full(reader.config) else None
    step = jnp.zeros_like(read.lengths)
    if how.first_token == "full":
        token = sample(logits_of(reader, hidden), keys, step, **limits)
        return Writing(cache, token, keys, step + 1, full)
    cache = dataclasses.replace(cache, lengths=jnp.maximum(cache.lengths - 1, 0))
    return Writing(cache, token, keys, step, full)


# The cache is donated: the loop writes into it, and only one copy of it ever exists.
@functools.partial(jax.jit, static_argnames="seen", donate_argnames="writing")
def write_chunk(
    writer: ServingModel,
    writing: Writing,
    ended: Bool[Array, "B"],
    limits: dict[str, Array],
    stop_ids: Int[Array, "stops"],
    steps: Int[Array, ""] | Int[Array, "B"],
    seen: int | None = None,
) -> tuple[Writing, Int[Array, "B chunk"]]:
    """Writes until every row has ended or its `steps` (at most CHUNK) tokens are written.

    Returns the new tokens with NO_TOKEN behind a row's end; a stop token is the end, and shown.
    The cache has a slot for every token that is written, and one where an ended row stands; with
    `seen` they are among the first so many, and the others are not read.
    """
    compilations["write_chunk"] += 1

    def going_on(ended, index):
        return ~ended & (index < steps)

    def unfinished(carry):
        _, ended, _, index = carry
        return jnp.any(going_on(ended, index))

    def write(carry):
        writing, ended, tokens, index = carry
        hidden, cache = extend(writer, writing.token[:, None], writing.cache, seen)
        logits = logits_of(writer, hidden[:, 0])
        token = sample(logits, writing.keys, writing.step, **limits)
        # Rows that have ended stand still, however long the others go on.
        moved = going_on(ended, index)
        tokens = tokens.at[:, index].set(jnp.where(moved, token, NO_TOKEN))
        cache = dataclasses.replace(cache, lengths=cache.lengths + moved)
        ended |= jnp.isin(token, stop_ids)
        token = jnp.where(moved, token, writing.token)
        return Writing(cache, token, writing.keys, writing.step + moved), ended, tokens, index + 1

    tokens = jnp.full((len(ended), CHUNK), NO_TOKEN, jnp.int32)
    carry = writing, ended, tokens, jnp.int32(0)
    writing, _, tokens, _ = jax.lax.while_loop(unfinished, write, carry)
    return keep(writing), tokens
