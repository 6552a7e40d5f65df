"""The KV cache as serving keeps it: by layer, and every row without gaps.

`KVCache` lets the rows of a training batch keep step, and holds several sequences a row; here a
row's token t lies in slot t, so that rows may be of any length, advance by different numbers of
tokens, be taken back, or be replaced by others while the rest go on.
"""

import dataclasses
import functools
from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from overfill_jax.inference.placement import axes, keep
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.layout import constrain, platform

AXES = ("batch", "kv_heads", "slots")
# Bytes of keys that a CPU's core finds in its cache when it reads them once more.
NEAR = 4 << 20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Entries:
    """Keys or values of one layer.

    Attributes:
      values: in the dtype of the computation, or int8.
      scales: of int8, one for each token and kv head; else None.
    """

    values: Float[Array, "B K S H"] | Int8[Array, "B K S H"] = field(metadata=axes(*AXES, None))
    scales: Float[Array, "B K S"] | None = field(metadata=axes(*AXES))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ServingCache:
    """Keys (rotated) and values, valid in the first `lengths[b]` slots of row b.

    Attributes:
      key, value: of each layer.
      lengths: tokens of each row so far; also the slot and the position of its next one.
    """

    key: tuple[Entries, ...]
    value: tuple[Entries, ...]
    lengths: Int[Array, "B"] = field(metadata=axes("batch"))

    @property
    def slots(self) -> int:
        """S: slots per row, filled or not."""
        return self.key[0].values.shape[2]

    def astype(self, dtype: str) -> "ServingCache":
        """The same cache with keys and values of this dtype, "int8" for integers with scales.

        Converted at the handoff: the prompt has been read, and no entry is converted twice.
        """
        key, value = (
            tuple(stored(entries.values, dtype) for entries in of_layers)
            for of_layers in (self.key, self.value)
        )
        return dataclasses.replace(self, key=key, value=value)

    def crossing(self, kept: Handoff | None) -> "ServingCache":
        """Of the full model's cache the layers and kv heads that a decoder takes over."""
        if kept is None:
            return self
        pairs = list(zip(kept.layers, kept.kv_heads, strict=True))
        key, value = (
            tuple(_of_heads(of_layers[layer], heads) for layer, heads in pairs)
            for of_layers in (self.key, self.value)
        )
        return dataclasses.replace(self, key=key, value=value)

    def refreshed(
        self, full: "ServingCache", kept: Handoff | None, lengths: Int[Array, "B"], count: int
    ) -> "ServingCache":
        """The same cache with `count` entries behind `lengths` as the full model's has them."""
        slots = lengths[:, None] + jnp.arange(count)
        take = jax.vmap(lambda array, slots: array[:, slots])
        key, value = jax.tree.map(lambda array: take(array, slots), (full.key, full.value))
        block = dataclasses.replace(full, key=key, value=value).crossing(kept)
        key, value = (
            tuple(
                write(cached, new.values.swapaxes(1, 2), lengths)
                for cached, new in zip(ours, theirs, strict=True)
            )
            for ours, theirs in ((self.key, block.key), (self.value, block.value))
        )
        return dataclasses.replace(self, key=key, value=value)

    def grow(self, slots: int) -> "ServingCache":
        """The same cache with `slots` slots a row; its own arrays are given up.

        One array at a time, so that there is never a second cache.
        """
        key, value = jax.tree.map(lambda array: _with_slots(array, slots), (self.key, self.value))
        return dataclasses.replace(self, key=key, value=value)


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: str) -> ServingCache:
    """The cache of a model of this shape before anything is read, in `dtype` as in `astype`."""
    shape = (rows, config.num_kv_heads, slots, config.head_dim)

    def empty() -> tuple[Entries, ...]:
        zeros = jnp.zeros(shape, config.dtype)
        return tuple(keep(stored(zeros, dtype)) for _ in range(config.num_layers))

    return ServingCache(empty(), empty(), jnp.zeros(rows, jnp.int32))


def _of_heads(entries: Entries, heads: tuple[int, ...]) -> Entries:
    if heads == tuple(range(entries.values.shape[1])):
        return entries
    return jax.tree.map(lambda x: jnp.take(x, np.array(heads), axis=1, mode="clip"), entries)


def _with_slots(array: Array, slots: int) -> Array:
    grown = _pad(array, slots)
    array.delete()
    return grown


@functools.partial(jax.jit, static_argnames="slots")
def _pad(array: Array, slots: int) -> Array:
    room = [(0, 0)] * array.ndim
    room[2] = (0, slots - array.shape[2])
    return constrain(jnp.pad(array, room), *(*AXES, None)[: array.ndim])


def stored(values: Float[Array, "B K S H"], dtype: str) -> Entries:
    """Entries as a cache of this dtype holds them."""
    if dtype != "int8":
        return Entries(values.astype(dtype), None)
    wide = values.astype(jnp.float32)
    scales = jnp.max(jnp.abs(wide), axis=-1) / 127
    # Rounded as they are stored, so that the integers make up for it.
    scales = scales.astype(values.dtype)
    safe = jnp.where(scales == 0, 1, scales).astype(jnp.float32)
    return Entries(jnp.clip(jnp.round(wide / safe[..., None]), -127, 127).astype(jnp.int8), scales)


def write(cached: Entries, new: Float[Array, "B T K H"], lengths: Int[Array, "B"]) -> Entries:
    """Puts T new entries of every row behind those it holds; there must be room for them."""
    entries = stored(new.swapaxes(1, 2), cached.values.dtype.name)
    slots = lengths[:, None] + jnp.arange(new.shape[1])
    slots = jnp.broadcast_to(slots[:, None], entries.values.shape[:3])

    # By row and kv head: otherwise a TPU puts slots before heads, and copies the cache to do so.
    @jax.vmap
    @jax.vmap
    def put(array: Array, slots: Array, entries: Array) -> Array:
        # What is promised spares a check that would make XLA write the whole array anew.
        return array.at[slots].set(entries, mode="promise_in_bounds", unique_indices=True)

    return keep(jax.tree.map(lambda array, part: put(array, slots, part), cached, entries))


def attend(
    query: Float[Array, "B T K G H"],
    key: Entries,
    value: Entries,
    lengths: Int[Array, "B"],
    seen: int | None = None,
) -> Float[Array, "B T K G H"]:
    """Attention of T new tokens a row, whose entries have been written behind `lengths` others.

    Only the first `seen` slots are read, all of them where it is None; no row has filled more.
    """
    key, value = jax.tree.map(lambda x: x[:, :, :seen], (key, value))
    batch, new, heads, group, head_dim = query.shape
    # Products of matrices, one for each row and kv head: keys and values are read as they lie.
    flat = query.transpose(0, 2, 3, 1, 4).reshape(batch, heads, group * new, head_dim)
    keys, values = (entries.values.astype(query.dtype) for entries in (key, value))
    scores = _scores(flat, keys, one_token=new == 1)
    if key.scales is not None:
        scores *= key.scales[:, :, None]
    last = lengths[:, None] + jnp.arange(new)
    visible = jnp.arange(keys.shape[2]) <= last[:, :, None]
    visible = jnp.tile(visible, (1, group, 1))[:, None]
    scores = jnp.where(visible, scores * head_dim**-0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    if value.scales is not None:
        weights *= value.scales[:, :, None]
    mixed = jnp.einsum("bkqs,bksh->bkqh", weights.astype(query.dtype), values)
    return mixed.reshape(batch, heads, group, new, head_dim).transpose(0, 3, 1, 2, 4)


def _scores(
    query: Float[Array, "B K Q H"], keys: Float[Array, "B K S H"], one_token: bool
) -> Float[Array, "B K Q S"]:
    """Products of every query with every key, in float32."""
    if not (one_token and platform() == "cpu"):
        return jnp.einsum("bkqh,bksh->bkqs", query, keys, preferred_element_type=jnp.float32)
    # On CPUs XLA multiplies the few queries of one token sooner by themselves than as a matrix,
    # unless the keys come from memory every time; then once, as they lie, is soonest.
    if keys.nbytes < NEAR:
        by_query = [
            jnp.einsum("bksh,bkh->bks", keys, query[:, :, q], preferred_element_type=jnp.float32)
            for q in range(query.shape[2])
        ]
        return jnp.stack(by_query, axis=2)
    across = jax.lax.optimization_barrier(query.swapaxes(2, 3))
    by_key = jnp.einsum("bksh,bkhq->bksq", keys, across, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(by_key).swapaxes(2, 3)
