"""Where weights live on a mesh: one table from logical axes to mesh axes.

Full model and decoder are laid out by the same table, each with its own widths.
"""

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Params, abstract, logical_axes

# Axes that are not named here (layers, head_dim) are never split.
RULES = {
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
}


def weight_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """A `NamedSharding` for every weight.

    An axis whose size the mesh does not divide (pruned widths such as 1689) is replicated, and
    said so once; mesh axes that the table names and `mesh` lacks count as size 1.
    """
    undivided = set()

    def place(axes: PartitionSpec, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        spec = []
        for name, size in zip(axes, leaf.shape, strict=True):
            axis = RULES.get(name)
            parts = mesh.shape.get(axis, 1)
            if size % parts:
                undivided.add(f"{name} ({size} by {parts})")
            spec.append(axis if parts > 1 and size % parts == 0 else None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    shardings = jax.tree.map(
        place,
        logical_axes(config),
        abstract(config, "float32").params,
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )
    if undivided:
        logging.info("replicated, not divisible: %s", ", ".join(sorted(undivided)))
    return shardings
