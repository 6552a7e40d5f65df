"""Where the weights of a model live on a mesh, by the table of `layout.py`."""

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import partition
from overfill_jax.model.transformer import Params, abstract, logical_axes


def weight_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """A `NamedSharding` for every weight."""
    return tree_shardings(logical_axes(config), abstract(config, "float32").params, mesh)


def tree_shardings(axes: Params, shapes: Params, mesh: Mesh) -> Params:
    """A `NamedSharding` for every array of a tree, given the names of its axes.

    An axis whose size the mesh does not divide (pruned widths such as 1689) is replicated, and
    said so once.
    """
    replicated = set()

    def place(axes: PartitionSpec, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        spec, undivided = partition(tuple(axes), leaf.shape, mesh)
        replicated.update(undivided)
        return NamedSharding(mesh, spec)

    shardings = jax.tree.map(
        place, axes, shapes, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )
    if replicated:
        logging.info("replicated, not divisible: %s", ", ".join(sorted(replicated)))
    return shardings
