"""The two compiled functions of generation: one reads the prompts, one writes the answers.

Everything that differs between calls of one shape is an argument, so that a shape is compiled once;
`buckets.py` keeps the shapes few.
"""

import collections
import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt

from overfill_jax import two_stage
from overfill_jax.inference.sampling import row_keys, sample
from overfill_jax.model.cache import KVCache
from overfill_jax.model.transformer import Model

# Most tokens that one call of the loop writes before the host looks at them: few enough that a
# stop string ends an answer soon, enough that the round trip costs nothing.
CHUNK = 16
NO_TOKEN = -1

# How often each of the two functions was compiled: its body runs once per compilation.
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
    """

    cache: KVCache
    token: Int[Array, "B"]
    keys: Key[Array, "B"]
    step: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("capacity", "first_token"))
def read_prompts(
    reader: Model,
    writer: Model,
    prompts: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    seed: UInt[Array, ""],
    rows: Int[Array, "B"],
    limits: dict[str, Array],
    capacity: int,
    first_token: Literal["full", "decoder"],
) -> Writing:
    """Prefill, handoff and the first answer token, whoever of the two gives it."""
    compilations["read_prompts"] += 1
    logits, cache = two_stage.prefill(reader, prompts, lengths, capacity)
    cache = two_stage.handoff(cache, reader.config, writer.config, first_token)
    if first_token == "decoder":
        last = jnp.maximum(lengths - 1, 0)[:, None]
        logits, cache = two_stage.extend(writer, jnp.take_along_axis(prompts, last, 1), cache)
        logits = logits[:, 0]
    keys = row_keys(seed, rows)
    return Writing(cache, sample(logits, keys, 0, **limits), keys, jnp.int32(1))


# The cache is donated: the loop writes into it, and only one copy of it ever exists.
@functools.partial(jax.jit, donate_argnames="writing")
def write_chunk(
    writer: Model,
    writing: Writing,
    ended: Bool[Array, "B"],
    limits: dict[str, Array],
    stop_ids: Int[Array, "stops"],
    steps: Int[Array, ""],
) -> tuple[Writing, Int[Array, "B chunk"]]:
    """Writes until every row has ended or `steps` (at most CHUNK) tokens of each are written.

    Returns the new tokens with NO_TOKEN behind a row's end; a stop token is the end, and shown.
    """
    compilations["write_chunk"] += 1
    first = writing.step

    def unfinished(carry):
        writing, ended, _ = carry
        return (writing.step - first < steps) & ~jnp.all(ended)

    def write(carry):
        writing, ended, tokens = carry
        logits, cache = two_stage.extend(writer, writing.token[:, None], writing.cache)
        token = sample(logits[:, 0], writing.keys, writing.step, **limits)
        shown = jnp.where(ended, NO_TOKEN, token)
        tokens = tokens.at[:, writing.step - first].set(shown)
        ended |= jnp.isin(token, stop_ids)
        return Writing(cache, token, writing.keys, writing.step + 1), ended, tokens

    tokens = jnp.full((len(ended), CHUNK), NO_TOKEN, jnp.int32)
    writing, _, tokens = jax.lax.while_loop(unfinished, write, (writing, ended, tokens))
    return writing, tokens
