"""Two-stage decoding: the full model reads the prompt, the decoder goes on from its cache.

Paper, section 3. Training and generation share these functions, so that the decoder is trained on
exactly what it will do: its first input is the first answer token, at position = prompt length.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from overfill_jax.errors import InputError
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.layout import constrain
from overfill_jax.model.transformer import Model, hidden_states, unembed

FIRST_TOKEN = ("full", "decoder")


def prefill(
    model: Model, tokens: Int[Array, "B P"], lengths: Int[Array, "B"], capacity: int
) -> tuple[Float[Array, "B V"], KVCache]:
    """Reads right-padded prompts in one pass.

    Args:
      model: the model that reads; in two-stage decoding the full one.
      tokens: prompts, row b valid up to `lengths[b]`, of any value beyond.
      lengths: tokens of each prompt, at least 1; a row of length 0 gives logits without meaning.
      capacity: slots for the answer to come; static.

    Returns:
      Logits of each prompt's last token, and the cache with P + capacity slots.
    """
    slots = jnp.arange(tokens.shape[1])
    segments = (slots < lengths[:, None]).astype(jnp.int32)
    positions = jnp.broadcast_to(slots, tokens.shape)
    hidden, cache = prefill_hidden(model, tokens, segments, positions, capacity)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    return unembed(model, jnp.take_along_axis(hidden, last, axis=1)[:, 0]), cache


def extend(
    model: Model,
    tokens: Int[Array, "B T"],
    cache: KVCache,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B T V"], KVCache]:
    """Reads T more tokens of every row behind what the cache holds, T = 1 in generation.

    Entries already in the cache are never changed. The caller keeps T within the slots left.

    Args:
      model: the model that goes on; in two-stage decoding the decoder.
      tokens: the next tokens of each row, row b valid up to `lengths[b]`.
      cache: of `prefill` (through `handoff` where another model goes on) or of `extend`.
      lengths: valid new tokens of each row; all T where not given.

    Returns:
      Logits after each new token, and the longer cache.
    """
    steps = jnp.arange(tokens.shape[1])
    if lengths is None:
        lengths = jnp.full_like(cache.lengths, tokens.shape[1])
    segments = (steps < lengths[:, None]).astype(jnp.int32)
    positions = cache.lengths[:, None] + steps
    hidden, cache = extend_hidden(model, tokens, segments, positions, cache)
    return unembed(model, hidden), cache


def prefill_hidden(
    model: Model,
    tokens: Int[Array, "B P"],
    segments: Int[Array, "B P"],
    positions: Int[Array, "B P"],
    capacity: int,
    remat: str = "none",
) -> tuple[Float[Array, "B P D"], KVCache]:
    """`prefill` of rows that may hold several prompts, up to the last hidden states.

    Args:
      model: the model that reads.
      tokens: prompts, one behind the other; a token sees those of its own segment.
      segments: the prompt that each token belongs to, from 1; 0 for padding.
      positions: of each token in its own prompt, from 0.
      capacity: slots for the answers to come; static.
      remat: what the backward pass recomputes; static.
    """
    hidden, key, value = hidden_states(model, tokens, positions, segments, remat=remat)
    lengths = jnp.sum(segments > 0, axis=1, dtype=jnp.int32)
    cursor = np.int32(tokens.shape[1])
    return hidden, KVCache(key, value, segments, lengths, cursor).grow(capacity)


def extend_hidden(
    model: Model,
    tokens: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    cache: KVCache,
    remat: str = "none",
) -> tuple[Float[Array, "B T D"], KVCache]:
    """`extend` of rows that may hold several answers, up to the last hidden states.

    A token sees the prompt of its own segment, and of the tokens of its segment those before it.
    Arguments as in `prefill_hidden`; `positions` go on from those of the prompts.
    """
    write = jax.lax.dynamic_update_slice_in_dim
    seen, until = jax.tree.map(
        lambda of: write(of, segments, cache.cursor, axis=1), (cache.segments, cache.until)
    )
    cache = dataclasses.replace(cache, segments=seen, until=until)
    hidden, key, value = hidden_states(model, tokens, positions, segments, cache, remat)
    return hidden, dataclasses.replace(
        cache,
        key=key,
        value=value,
        lengths=cache.lengths + jnp.sum(segments > 0, axis=1, dtype=jnp.int32),
        cursor=cache.cursor + tokens.shape[1],
    )


def handoff(
    cache: KVCache,
    full: ModelConfig,
    decoder: ModelConfig,
    first_token: Literal["full", "decoder"],
) -> KVCache:
    """The full model's cache as the decoder takes it over.

    Args:
      cache: left by `prefill` with the full model.
      full, decoder: the two shapes; the decoder's `handoff` says which layers and kv heads cross.
      first_token: who gives the first answer token. With `full` it comes from the prompt's last
        logits, and the decoder reads it as its first input. With `decoder` the cache crosses
        without the prompt's last position, which the decoder reads itself and answers with the
        first token, as disaggregated servers do.

    Raises:
      InputError: the decoder cannot read this cache.
    """
    check_handoff(full, decoder)
    kept, dtype = crossing(full, decoder), jnp.dtype(decoder.dtype)
    key, value = (x if kept is None else _gather(x, kept) for x in (cache.key, cache.value))
    cache = dataclasses.replace(cache, key=key.astype(dtype), value=value.astype(dtype))
    return cache if first_token == "full" else _without_last(cache)


def check_handoff(full: ModelConfig, decoder: ModelConfig) -> None:
    """Refuses two models that cannot share a cache or a vocabulary.

    Raises:
      InputError: names the first field that differs, with both values, or the layer or kv head of
        the decoder's `handoff` that the full model lacks.
    """
    kept, fields = crossing(full, decoder), ("head_dim", "rope", "vocab_size")
    for field in (*(() if kept else ("num_layers", "num_kv_heads")), *fields):
        ours, theirs = getattr(full, field), getattr(decoder, field)
        if ours != theirs:
            raise InputError(
                f"the decoder cannot read the full model's cache: {field} is {theirs} in the "
                f"decoder (cache {_cache_shape(decoder)}), {ours} in the full model "
                f"(cache {_cache_shape(full)})"
            )
    if kept is not None:
        _check_kept(kept, full)


def _check_kept(kept: Handoff, full: ModelConfig) -> None:
    named = [("layer", layer, full.num_layers) for layer in kept.layers]
    for layer, heads in zip(kept.layers, kept.kv_heads, strict=True):
        named += [(f"layer {layer}, kv head", head, full.num_kv_heads) for head in heads]
    for name, number, count in named:
        if not 0 <= number < count:
            raise InputError(
                f"the decoder cannot read the full model's cache: its handoff names {name} "
                f"{number}, expected 0..{count - 1} (cache {_cache_shape(full)})"
            )


def crossing(full: ModelConfig, decoder: ModelConfig) -> Handoff | None:
    """What crosses; None where all of it does, as where a decoder goes on from its own cache."""
    return None if full.handoff == decoder.handoff else decoder.handoff


def _gather(array: Float[Array, "L B S K H"], kept: Handoff) -> Float[Array, "_ B S _ H"]:
    take = functools.partial(jnp.take, mode="clip")  # of what `check_handoff` has seen, nothing is
    array = take(array, np.array(kept.layers), axis=0)
    every = tuple(range(array.shape[3]))
    if any(heads != every for heads in kept.kv_heads):
        array = jax.vmap(functools.partial(take, axis=2))(array, np.array(kept.kv_heads))
    return constrain(array, "layers", "batch", None, "kv_heads", None)


def _cache_shape(config: ModelConfig) -> str:
    return f"[L={config.num_layers}, K={config.num_kv_heads}, H={config.head_dim}]"


def _without_last(cache: KVCache) -> KVCache:
    # The slot stays where it is, so that rows keep step; it only stops being seen.
    following = jnp.pad(cache.segments[:, 1:], ((0, 0), (0, 1)))
    segments = jnp.where(cache.segments == following, cache.segments, 0)
    lengths = jnp.sum(segments > 0, axis=1, dtype=jnp.int32)
    return dataclasses.replace(cache, segments=segments, lengths=lengths)
