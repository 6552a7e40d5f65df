"""Attention by JAX's splash kernel on TPUs: causal blocks that nobody sees are never computed."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
    BlockSizes,
    SegmentIds,
    SplashAttentionKernel,
    make_splash_mha_single_device,
)
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import (
    CausalMask,
    MultiHeadMask,
)
from jaxtyping import Array, Float, Int

# The kernel's tiles are whole lanes; its smallest block is one.
LANES = 128
BLOCKS = (512, 256, LANES)


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    offset: int,
) -> Float[Array, "B T N H"]:
    """`attention`; slots that fill up the last block are seen by nobody that is kept."""
    length, heads, head_dim = query.shape[1:]
    query_block, query_padding = block(length)
    key_block, key_padding = block(key.shape[1])
    kernel = _kernel(
        heads, length + query_padding, key.shape[1] + key_padding, offset, query_block, key_block
    )
    segments = ()
    if query_segments is not None:
        queries = jnp.pad(query_segments, ((0, 0), (0, query_padding)))
        keys = jnp.pad(key_segments, ((0, 0), (0, key_padding)))
        segments = (SegmentIds(q=queries, kv=keys),)
    query = _head_major(query * head_dim**-0.5, query_padding)
    mixed = jax.vmap(kernel)(
        query, _head_major(key, key_padding), _head_major(value, key_padding), *segments
    )
    return jnp.swapaxes(mixed, 1, 2)[:, :length]


def obstacle(
    platform: str,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    until: Int[Array, "B S"] | None,
) -> str | None:
    """Why the kernel cannot run on these, after "splash"; None if it can."""
    if platform != "tpu":
        return f"needs a TPU; found {platform}"
    if until is not None:
        return "shows a slot to one segment; found spans of them, as train.handoffs makes them"
    return None


def block(slots: int) -> tuple[int, int]:
    """The block along an axis, and the slots that the axis lacks to a multiple of it.

    The largest block that costs at most an eighth more slots than the smallest.
    """
    least = slots + -slots % LANES
    for size in BLOCKS:
        padded = slots + -slots % size
        if padded <= least * 9 // 8:
            return size, padded - slots
    raise AssertionError("the smallest block is the measure")


def _head_major(array: Float[Array, "B T N H"], padding: int) -> Float[Array, "B N _ H"]:
    return jnp.swapaxes(jnp.pad(array, ((0, 0), (0, padding), (0, 0), (0, 0))), 1, 2)


def _kernel(
    heads: int, queries: int, keys: int, offset: int, query_block: int, key_block: int
) -> SplashAttentionKernel:
    mask = MultiHeadMask([CausalMask((queries, keys), offset=offset)] * heads)
    sizes = BlockSizes(
        block_q=query_block,
        block_kv=key_block,
        block_q_dkv=query_block,
        block_kv_dkv=key_block,
        block_q_dq=query_block,
        block_kv_dq=key_block,
    )
    return make_splash_mha_single_device(mask, block_sizes=sizes)
