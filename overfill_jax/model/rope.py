"""Rotary position embeddings (Su et al., arXiv 2104.09864) with the scalings of Llama 3 and linear.

Channels are paired as (i, i + H/2), the layout of Hugging Face checkpoints.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from overfill_jax.model.config import Rope


def frequencies(rope: Rope, head_dim: int) -> Float[np.ndarray, "half"]:
    """Radians per position of each channel pair, in float64."""
    plain = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(plain, rope)
    return plain


def _llama3(plain: np.ndarray, rope: Rope) -> np.ndarray:
    # Turns that a pair makes over the original context: few turns mean a long wave.
    turns = rope.original_max_position * plain / (2 * np.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (keep + (1.0 - keep) / rope.factor)


def rotation(
    rope: Rope, head_dim: int, positions: Int[Array, "B T"]
) -> tuple[Float[Array, "B T 1 half"], Float[Array, "B T 1 half"]]:
    """Cosine and sine of every position's angles, in float32, ready to broadcast over heads."""
    angles = positions[:, :, None, None] * jnp.asarray(frequencies(rope, head_dim), jnp.float32)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B T heads H"], cos: Float[Array, "B T 1 half"], sin: Float[Array, "B T 1 half"]
) -> Float[Array, "B T heads H"]:
    """Turns each channel pair by its angle; computed in float32, returned in the dtype of `x`."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
