"""Attention by cuDNN's flash kernel on NVIDIA GPUs, through `jax.nn`."""

import jax
from jax.extend.backend import get_backend
from jaxtyping import Array, Float, Int

from overfill_jax.model.attention_xla import visible


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    offset: int,
    until: Int[Array, "B S"] | None = None,
) -> Float[Array, "B T N H"]:
    """`attention`; the kernel gets what is visible as a bias, if causality is not all of it."""
    if query_segments is None:
        seen = {"is_causal": True}
    else:  # `is_causal` aligns the corners top left, where only offset 0 is right
        seen = {"mask": visible(query_segments, key_segments, offset, until)[:, None]}
    return jax.nn.dot_product_attention(query, key, value, **seen, implementation="cudnn")


def obstacle(
    platform: str,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    until: Int[Array, "B S"] | None,  # whatever is visible, it takes
) -> str | None:
    """Why the kernel cannot run on these, after "cudnn"; None if it can."""
    if platform != "gpu" or "cuda" not in get_backend().platform_version:
        return f"needs an NVIDIA GPU; found {platform}"
    capability = jax.local_devices()[0].compute_capability
    if float(capability) < 8:
        return f"needs a GPU of compute capability 8.0 or more; found {capability}"
    if query.dtype not in ("bfloat16", "float16") or key.dtype != query.dtype:
        return f"computes in bfloat16 or float16; found {query.dtype} over {key.dtype}"
    if query.shape[3] % 8 or query.shape[3] > 128:
        return f"takes a head_dim up to 128, a multiple of 8; found {query.shape[3]}"
    if query.shape[1] % 2 or key.shape[1] % 2:
        return f"takes even numbers of slots; found {query.shape[1]} over {key.shape[1]}"
    return None
