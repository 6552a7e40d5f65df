"""Low-rank adapters: what training adds to kernels that stay as they are (LoRA, arXiv 2106.09685).

A kernel W [in, out] of a layer counts as W + scale * A B, with A [in, rank] and B [rank, out].
Every dense kernel of the layers has one: query, key, value, out, gate, up and down. Embedding,
unembedding, biases and norms have none. B begins at 0, so that training begins at W.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.sharding import tree_shardings
from overfill_jax.model.transformer import Params, abstract, logical_axes

# Of a layer's kernels, the number of axes that they are read by.
INPUT_AXES = {
    "attention": {"query": 1, "key": 1, "value": 1, "out": 2},
    "mlp": {"gate": 1, "up": 1, "down": 1},
}
LEAVES = ("a", "b")


@dataclasses.dataclass(frozen=True)
class LowRank:
    """The adapters of a run.

    Attributes:
      rank: columns of A.
      alpha: over the rank, what A B counts.
    """

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["kernel", "a", "b"], meta_fields=["scale"]
)
@dataclasses.dataclass(frozen=True)
class Adapted:
    """A kernel and its adapter where a model has a kernel; stacked over layers like one.

    A layer casts its kernel before it uses it, and only there the two become one. So the sum
    exists for one layer at a time: within the scan over them, and within what is recomputed. The
    kernel comes first, for it is the leaf that Flax compares with the shape it expects.
    """

    kernel: Array
    a: Array
    b: Array
    scale: float

    def astype(self, dtype: Any) -> Array:
        """The sum, made in float32."""
        # As a batch of one, for of the products without a batch remat "dots" keeps every layer's.
        axes = ((self.a.ndim,), (1,)), ((0,), (0,))
        product = jax.lax.dot_general(self.a[None], self.b[None], axes)[0]
        return (self.kernel.astype(jnp.float32) + self.scale * product).astype(dtype)


def init_adapters(config: ModelConfig, rank: int, key: Array) -> Params:
    """A drawn, B zero, in float32: a tree of `a` and `b` in the places of the layers' kernels."""
    shapes = abstract(config, "float32").params
    keys = iter(jax.random.split(key, sum(map(len, INPUT_AXES.values()))))

    def draw(inputs: int, kernel: jax.ShapeDtypeStruct) -> Params:
        layers, *shape = kernel.shape
        read, written = shape[:inputs], shape[inputs:]
        a = jax.random.normal(next(keys), (layers, *read, rank)) * math.prod(read) ** -0.5
        return {"a": a, "b": jnp.zeros((layers, rank, *written))}

    return _of_kernels(draw, shapes)


def abstract_adapters(config: ModelConfig, rank: int) -> Params:
    """Shapes of the same, holding nothing."""
    return jax.eval_shape(lambda: init_adapters(config, rank, jax.random.key(0)))


def adapter_shardings(config: ModelConfig, rank: int, mesh: Mesh) -> Params:
    """Where they lie: each axis that they share with their kernel as that one does."""

    def name(inputs: int, axes: PartitionSpec) -> Params:
        layers, *names = axes
        return {
            "a": PartitionSpec(layers, *names[:inputs], "rank"),
            "b": PartitionSpec(layers, "rank", *names[inputs:]),
        }

    axes = _of_kernels(name, logical_axes(config))
    return tree_shardings(axes, abstract_adapters(config, rank), mesh)


def adapted(params: Params, adapters: Params, scale: float) -> Params:
    """The weights with adapters, for a model to apply; no sum is made."""
    layers = dict(params["layers"])
    for part, dense in adapters["layers"].items():
        both = {
            name: layers[part][name]
            | {"kernel": Adapted(layers[part][name]["kernel"], pair["a"], pair["b"], scale)}
            for name, pair in dense.items()
        }
        layers[part] = layers[part] | both
    return params | {"layers": layers}


def merged(params: Params, adapters: Params, scale: float) -> Params:
    """The same as plain weights, each in its own dtype."""

    def sum_of(leaf: Array | Adapted) -> Array:
        if not isinstance(leaf, Adapted):
            return leaf
        return jax.vmap(lambda one: one.astype(one.kernel.dtype))(leaf)

    both = adapted(params, adapters, scale)
    return jax.tree.map(sum_of, both, is_leaf=lambda node: isinstance(node, Adapted))


def _of_kernels(function: Callable[[int, Any], Params], tree: Params) -> Params:
    """`function` of the input axes and the leaf of every kernel that has an adapter."""
    return {
        "layers": {
            part: {
                name: function(inputs, tree["layers"][part][name]["kernel"])
                for name, inputs in dense.items()
            }
            for part, dense in INPUT_AXES.items()
        }
    }
