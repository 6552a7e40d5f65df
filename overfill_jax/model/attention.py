"""Attention over the cache, behind one function: the place where faster kernels slot in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    offset: Int[Array, ""] | int,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention in slot coordinates.

    New token t stands in slot `offset + t` and sees the slots up to its own that carry its
    segment. Segment 0 is padding and sees only itself's kind; its output is never read. Because
    causality is by slot, ragged prompts need no per-row mask other than the segments, and
    positions enter through the rotary embedding alone.
    """
    slots = jnp.arange(key.shape[1])
    causal = slots[None, :] <= offset + jnp.arange(query.shape[1])[:, None]
    mask = causal[None] & (query_segments[:, :, None] == key_segments[:, None, :])
    return _attention_xla(query, key, value, mask)


def _attention_xla(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Array,
) -> Float[Array, "B T N H"]:
    batch, length, heads, head_dim = query.shape
    grouped = query.reshape(batch, length, key.shape[2], -1, head_dim)
    logits = jnp.einsum("btkgh,bskh->bkgts", grouped, key, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, None], logits * head_dim**-0.5, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bkgts,bskh->btkgh", weights, value)
    return mixed.reshape(batch, length, heads, head_dim)
