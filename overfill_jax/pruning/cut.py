"""The cut itself: weights sliced by channel index, along the axes that carry those names."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model, Params, logical_axes
from overfill_jax.pruning.choose import Kept


def pruned_config(config: ModelConfig, hidden: int, intermediate: int) -> ModelConfig:
    """The same model at other widths: layers, heads and head_dim stay, so the cache fits both."""
    return dataclasses.replace(config, hidden_size=hidden, intermediate_size=intermediate)


def cut(model: Model, kept: Kept) -> Model:
    """Keeps the given channels and drops the others; the order of `kept` is made ascending.

    A hidden channel leaves every array with an `embed` axis (embedding, norms, inputs of
    q/k/v/gate/up, outputs of o/down, unembedding), an MLP channel those with an `mlp` axis.
    Biases of q/k/v and the q/k norms carry neither and stay whole.
    """
    hidden = jnp.sort(jnp.asarray(kept.hidden))
    intermediate = jnp.sort(jnp.asarray(kept.intermediate), axis=1)

    def cut_leaf(axes: PartitionSpec, leaf: jax.Array) -> jax.Array:
        if "embed" in axes:
            leaf = jnp.take(leaf, hidden, axis=axes.index("embed"))
        if "mlp" in axes:
            axis = axes.index("mlp") - 1  # of one layer's array
            leaf = jax.vmap(lambda x, indices: jnp.take(x, indices, axis=axis))(leaf, intermediate)
        return leaf

    @jax.jit  # One program instead of one for every shape.
    def cut_all(params: Params) -> Params:
        axes = logical_axes(model.config)
        is_leaf = lambda node: isinstance(node, PartitionSpec)  # noqa: E731
        return jax.tree.map(cut_leaf, axes, params, is_leaf=is_leaf)

    params = cut_all(model.params)
    config = pruned_config(model.config, hidden.shape[0], intermediate.shape[1])
    return Model(config, params)
