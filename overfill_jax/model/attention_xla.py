"""Attention in plain operations: the reference, on every platform and for every shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    offset: Int[Array, ""] | int,
    until: Int[Array, "B S"] | None = None,
) -> Float[Array, "B T N H"]:
    """`attention`, with the logits and their softmax in float32."""
    batch, length, heads, head_dim = query.shape
    if query_segments is None:
        mask = causal(length, key.shape[1], offset)[None]
    else:
        mask = visible(query_segments, key_segments, offset, until)
    grouped = query.reshape(batch, length, key.shape[2], -1, head_dim)
    logits = jnp.einsum("btkgh,bskh->bkgts", grouped, key, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, None], logits * head_dim**-0.5, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bkgts,bskh->btkgh", weights, value)
    return mixed.reshape(batch, length, heads, head_dim)


def visible(
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    offset: Int[Array, ""] | int,
    until: Int[Array, "B S"] | None = None,
) -> Bool[Array, "B T S"]:
    """What each new token sees: slots up to its own, of its segment or a span that holds it."""
    before = causal(query_segments.shape[1], key_segments.shape[1], offset)
    query, first = query_segments[:, :, None], key_segments[:, None, :]
    if until is None:
        return before[None] & (query == first)
    return before[None] & (query >= first) & (query <= until[:, None, :])


def causal(new: int, slots: int, offset: Int[Array, ""] | int) -> Bool[Array, "T S"]:
    """Of each of `new` tokens, the first of which is in slot `offset`, the slots up to its own."""
    return jnp.arange(slots)[None, :] <= offset + jnp.arange(new)[:, None]
