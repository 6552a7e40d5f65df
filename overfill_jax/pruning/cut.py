"""The cut itself: weights sliced by index, along the axes that carry those names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.transformer import Model, Params, logical_axes
from overfill_jax.pruning.choose import Kept


def pruned_config(config: ModelConfig, kept: Kept) -> ModelConfig:
    """The shape of what is kept: head_dim stays, and the cache fits both as its `handoff` says."""
    c = config
    layers = list(range(c.num_layers)) if kept.layers is None else kept.layers.tolist()
    kv_heads = [list(range(c.num_kv_heads))] * len(layers)
    kv_heads = kv_heads if kept.kv_heads is None else kept.kv_heads.tolist()
    whole = kept.layers is None and kept.kv_heads is None
    return dataclasses.replace(
        config,
        hidden_size=len(kept.hidden),
        intermediate_size=kept.intermediate.shape[1],
        num_layers=len(layers),
        num_heads=c.num_heads if kept.heads is None else kept.heads.shape[1],
        num_kv_heads=len(kv_heads[0]),
        handoff=None if whole else Handoff.of(layers, kv_heads),
    )


def cut(model: Model, kept: Kept) -> Model:
    """Keeps what is given and drops the rest; the order of channels is made ascending.

    A hidden channel leaves every array with an `embed` axis (embedding, norms, inputs of
    q/k/v/gate/up, outputs of o/down, unembedding), an MLP channel those with an `mlp` axis, a head
    those with a `heads` or `kv_heads` axis. Biases of q/k/v and the q/k norms carry no channel and
    stay whole; a layer takes everything along.
    """
    hidden = jnp.sort(jnp.asarray(kept.hidden))
    by_layer = {
        "mlp": np.sort(kept.intermediate, axis=1),
        "heads": kept.heads,
        "kv_heads": kept.kv_heads,
    }

    def cut_leaf(axes: PartitionSpec, leaf: jax.Array) -> jax.Array:
        if "embed" in axes:
            leaf = jnp.take(leaf, hidden, axis=axes.index("embed"))
        if "layers" in axes and kept.layers is not None:
            leaf = jnp.take(leaf, kept.layers, axis=0)
        for name, indices in by_layer.items():
            if name in axes and indices is not None:
                axis = axes.index(name) - 1  # of one layer's array
                leaf = jax.vmap(lambda x, i, axis=axis: jnp.take(x, i, axis=axis))(leaf, indices)
        return leaf

    @jax.jit  # One program instead of one for every shape.
    def cut_all(params: Params) -> Params:
        axes = logical_axes(model.config)
        is_leaf = lambda node: isinstance(node, PartitionSpec)  # noqa: E731
        return jax.tree.map(cut_leaf, axes, params, is_leaf=is_leaf)

    return Model(pruned_config(model.config, kept), cut_all(model.params))
