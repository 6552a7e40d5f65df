"""The KV cache as serving keeps it: by layer, and every row without gaps.

`KVCache` lets the rows of a training batch keep step, and holds several sequences a row; here a
row's token t lies in slot t, so that rows may be of any length, advance by different numbers of
tokens, be taken back, or be replaced by others while the rest go on.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from overfill_jax.model.handoff import Handoff


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ServingCache:
    """Keys (rotated) and values, valid in the first `lengths[b]` slots of row b.

    Attributes:
      key, value: of each layer, [B, K, S, H].
      lengths: tokens of each row so far; also the slot and the position of its next one.
    """

    key: tuple[Float[Array, "B K S H"], ...]
    value: tuple[Float[Array, "B K S H"], ...]
    lengths: Int[Array, "B"]

    @property
    def slots(self) -> int:
        """S: slots per row, filled or not."""
        return self.key[0].shape[2]

    def crossed(self, kept: Handoff | None, dtype: str) -> "ServingCache":
        """What a decoder takes over: these layers and kv heads, or all, in this dtype."""
        key, value = (
            tuple(array.astype(dtype) for array in picked(arrays, kept))
            for arrays in (self.key, self.value)
        )
        return dataclasses.replace(self, key=key, value=value)

    def refreshed(
        self, other: "ServingCache", kept: Handoff, lengths: Int[Array, "B"], count: int
    ) -> "ServingCache":
        """The same cache with `count` entries behind `lengths` as the full model's has them."""
        rows, slots = jnp.arange(len(lengths))[:, None], lengths[:, None] + jnp.arange(count)
        key, value = (
            tuple(
                write(cached, new[rows, :, slots], lengths)
                for cached, new in zip(ours, picked(theirs, kept), strict=True)
            )
            for ours, theirs in ((self.key, other.key), (self.value, other.value))
        )
        return dataclasses.replace(self, key=key, value=value)

    def grow(self, slots: int) -> "ServingCache":
        """The same cache with `slots` slots a row; its own arrays are given up.

        One array at a time, so that there is never a second cache.
        """
        key, value = (
            tuple(_with_slots(array, slots) for array in arrays)
            for arrays in (self.key, self.value)
        )
        return dataclasses.replace(self, key=key, value=value)


def picked(
    arrays: tuple[Float[Array, "B K S H"], ...], kept: Handoff | None
) -> Iterator[Float[Array, "B _ S H"]]:
    """Of the arrays of every layer of the full model, the decoder's layers and kv heads."""
    if kept is None:
        yield from arrays
        return
    for layer, heads in zip(kept.layers, kept.kv_heads, strict=True):
        array = arrays[layer]
        whole = heads == tuple(range(array.shape[1]))
        yield array if whole else jnp.take(array, np.array(heads), axis=1, mode="clip")


def _with_slots(array: Float[Array, "B K S H"], slots: int) -> Float[Array, "B K slots H"]:
    grown = _pad(array, slots)
    array.delete()
    return grown


@functools.partial(jax.jit, static_argnames="slots")
def _pad(array: Float[Array, "B K S H"], slots: int) -> Float[Array, "B K slots H"]:
    return jnp.pad(array, ((0, 0), (0, 0), (0, slots - array.shape[2]), (0, 0)))


def write(
    cached: Float[Array, "B K S H"], new: Float[Array, "B T K H"], lengths: Int[Array, "B"]
) -> Float[Array, "B K S H"]:
    """Puts T new entries of every row behind those it holds; there must be room for them."""
    rows = jnp.arange(len(cached))[:, None]
    slots = lengths[:, None] + jnp.arange(new.shape[1])
    # What is promised spares a check that would make XLA write the whole array anew.
    return cached.at[rows, :, slots].set(
        new.astype(cached.dtype), mode="promise_in_bounds", unique_indices=True
    )


def attend(
    query: Float[Array, "B T K G H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S H"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B T K G H"]:
    """Attention of T new tokens a row, whose entries have been written behind `lengths` others."""
    batch, new, heads, group, head_dim = query.shape
    # Products of matrices, one for each row and kv head: keys and values are read as they lie.
    flat = query.transpose(0, 2, 3, 1, 4).reshape(batch, heads, group * new, head_dim)
    scores = jnp.einsum("bkqh,bksh->bkqs", flat, key, preferred_element_type=jnp.float32)
    last = lengths[:, None] + jnp.arange(new)
    visible = jnp.arange(key.shape[2]) <= last[:, :, None]
    visible = jnp.tile(visible, (1, group, 1))[:, None]
    scores = jnp.where(visible, scores * head_dim**-0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bkqs,bksh->bkqh", weights, value)
    return mixed.reshape(batch, heads, group, new, head_dim).transpose(0, 3, 1, 2, 4)
