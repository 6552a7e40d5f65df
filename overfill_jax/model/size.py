"""Parameters of a shape, by part, and the bytes that one decoded token reads."""

import math

import jax
import jax.numpy as jnp

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import abstract

# All that decides how many numbers a token reads, and multiplies.
DIMENSIONS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "tied_embeddings",
)


def dimensions(config: ModelConfig) -> dict[str, int]:
    """Those of a model by name: two that share them take the same time for a token."""
    return {name: int(getattr(config, name)) for name in DIMENSIONS}


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Number of parameters in `embed`, `attention`, `mlp`, `norms` and `unembed`."""
    parts = dict.fromkeys(("embed", "attention", "mlp", "norms", "unembed"), 0)
    leaves = jax.tree_util.tree_leaves_with_path(abstract(config, "float32").params)
    for path, leaf in leaves:
        names = [key.key for key in path]
        part = "norms" if "norm" in names[-2] else names[1] if names[0] == "layers" else names[0]
        parts[part] += math.prod(leaf.shape)
    return parts


def parameters(config: ModelConfig) -> int:
    """Number of parameters; a tied embedding counts once."""
    return sum(parameters_by_part(config).values())


def decode_parameters(config: ModelConfig) -> int:
    """Parameters that one decoded token reads: all, but of an untied embedding a single row."""
    parts = parameters_by_part(config)
    untouched = 0 if config.tied_embeddings else parts["embed"] - config.hidden_size
    return sum(parts.values()) - untouched


def decode_bytes(config: ModelConfig, dtype: str, context: int) -> int:
    """Bytes that one row's next token reads: the weights, and `context` cached keys and values."""
    weights = jnp.dtype(dtype).itemsize * decode_parameters(config)
    return weights + cache_bytes(config, dtype) * context


def cache_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of the keys and values of one position."""
    c = config
    return 2 * jnp.dtype(dtype).itemsize * c.num_layers * c.num_kv_heads * c.head_dim
