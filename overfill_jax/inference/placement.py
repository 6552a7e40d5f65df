"""Where the arrays of serving live on a mesh, by the table of `model/layout.py`.

Their logical axes are named where they are declared, in the dataclasses' fields.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from overfill_jax.model.layout import constrain, partition
from overfill_jax.model.quantised import Quantised

Axes = tuple[str | None, ...]


def axes(*names: str | None) -> dict[str, Axes]:
    """The metadata of a dataclass's field whose array has these logical axes."""
    return {"axes": names}


def place(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, a dataclass of dataclasses, on a mesh; those that lie there stay.

    An axis that the mesh does not divide is replicated, and said so once.
    """
    leaves, structure = jax.tree.flatten(tree)
    shardings, replicated = [], set()
    for leaf, names in zip(leaves, _axes_of(tree, ()), strict=True):
        spec, undivided = partition(names, leaf.shape, mesh)
        shardings.append(NamedSharding(mesh, _shortened(spec)))
        replicated.update(undivided)
    if replicated:
        _log_once(f"replicated, not divisible: {', '.join(sorted(replicated))}")
    return jax.tree.unflatten(structure, jax.device_put(leaves, shardings))


def keep(tree: Any) -> Any:
    """For compiled functions: the same arrays where `place` puts them, if a mesh is set.

    Said wherever an array is made or written; the compiler may otherwise lay it out anew.
    """
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, _axes_of(tree, ()), strict=True)
    return jax.tree.unflatten(structure, [constrain(leaf, *names) for leaf, names in pairs])


def _axes_of(node: Any, names: Axes) -> Iterator[Axes]:
    """Of every array in the tree, in the order of its leaves; `names` are the field's."""
    if node is None:
        return
    if isinstance(node, tuple):
        for part in node:
            yield from _axes_of(part, names)
    elif isinstance(node, Quantised):
        yield from ((None, *names), (None, *names[1:]))
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            if not field.metadata.get("static"):
                yield from _axes_of(getattr(node, field.name), field.metadata.get("axes", ()))
    else:
        yield names


def _shortened(spec: PartitionSpec) -> PartitionSpec:
    # As compiled functions give it, which would otherwise be compiled again for what they gave.
    last = max((place for place, names in enumerate(spec, 1) if names), default=0)
    return PartitionSpec(*spec[:last])


@functools.cache
def _log_once(message: str) -> None:
    logging.info("%s", message)
