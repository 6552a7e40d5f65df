"""Where the arrays of serving live on a mesh, by the table of `model/layout.py`.

Their logical axes are named where they are declared, in the dataclasses' fields.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from absl import logging
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from overfill_jax.errors import InputError
from overfill_jax.model.layout import constrain, partition, parts
from overfill_jax.model.mesh import make_mesh, mesh_sizes
from overfill_jax.model.quantised import Quantised


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An array's axis that holds a logical axis, block by block, and is split only between them.

    Attributes:
      name: of the logical axis.
      count: of the blocks; where it is declared, the name of the static field that has it.
    """

    name: str
    count: int | str


Axes = tuple[str | Blocks | None, ...]


def axes(*names: str | Blocks | None) -> dict[str, Axes]:
    """The metadata of a dataclass's field whose array has these logical axes."""
    return {"axes": names}


def place(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, a dataclass of dataclasses, on a mesh; those that lie there stay."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, jax.device_put(leaves, shardings(tree, mesh)))


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> list[NamedSharding]:
    """Where `place` puts each array, or what stands for one, in the order of the leaves.

    An axis that the mesh does not divide is replicated, and said so once.
    """
    found, replicated = [], set()
    for leaf, declared in zip(jax.tree.leaves(tree), _axes_of(tree, ()), strict=True):
        names, undivided = _by_name(declared, mesh)
        spec, more = partition(names, leaf.shape, mesh)
        found.append(NamedSharding(mesh, _shortened(spec)))
        replicated.update(undivided, more)
    if replicated:
        _log_once(f"replicated, not divisible: {', '.join(sorted(replicated))}")
    return found


def lies_on(tree: Any, mesh: Mesh) -> bool:
    """Whether every array is spread over, or copied to, just the devices of the mesh."""
    devices = set(mesh.devices.flat)
    return all(leaf.sharding.device_set == devices for leaf in jax.tree.leaves(tree))


def mesh_of(tree: Any) -> Mesh:
    """The mesh that the arrays lie on; where they lie on none, that of the first device alone."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf.sharding, NamedSharding):
            return leaf.sharding.mesh
    return make_mesh(1, 1, 1, jax.devices()[:1])


def serving_mesh(mesh: ml_collections.ConfigDict, rows: int) -> Mesh:
    """The devices that answer so many prompts at once, by the `mesh` section of the config.

    They are those of this process: of a job of many, each answers prompts of its own.

    Weights are split along `tensor` alone: what training splits along `fsdp` would be brought
    together again for every token. So `fsdp` counts as `data`, parts of the batch with whole copies
    of the weights, of which there are no more than rows.

    Raises:
      InputError: the mesh does not fit the devices; there are no rows.
    """
    if rows < 1:
        raise InputError(f"batch_size is {rows}, expected at least 1")
    sizes, count = (mesh.data, mesh.fsdp, mesh.tensor), jax.local_device_count()
    wanted = math.prod(sizes) if min(sizes) > 0 else count  # other devices have no part in it
    data, fsdp, tensor = mesh_sizes(*sizes, min(wanted, count), f"{count} devices")
    copies = min(data * fsdp, rows)
    return make_mesh(copies, 1, tensor, jax.local_devices()[: copies * tensor])


def keep(tree: Any) -> Any:
    """For compiled functions: the same arrays where `place` puts them, if a mesh is set.

    Said wherever an array is made or written; the compiler may otherwise lay it out anew.
    """
    leaves, structure = jax.tree.flatten(tree)
    mesh = jax.sharding.get_abstract_mesh()
    pairs = zip(leaves, _axes_of(tree, ()), strict=True)
    kept = [constrain(leaf, *_by_name(declared, mesh)[0]) for leaf, declared in pairs]
    return jax.tree.unflatten(structure, kept)


def _by_name(declared: Axes, mesh: Mesh | AbstractMesh) -> tuple[list[str | None], list[str]]:
    """The logical axes that may be split; and, in words, those whose blocks are too few for it."""
    names, undivided = [], []
    for axis in declared:
        if not isinstance(axis, Blocks):
            names.append(axis)
        elif axis.count % parts(axis.name, mesh):
            undivided.append(f"{axis.name} ({axis.count} by {parts(axis.name, mesh)})")
            names.append(None)
        else:
            names.append(axis.name)
    return names, undivided


def _axes_of(node: Any, names: Axes) -> Iterator[Axes]:
    """Of every array in the tree, in the order of its leaves; `names` are the field's."""
    if node is None:
        return
    if isinstance(node, tuple):
        for part in node:
            yield from _axes_of(part, names)
    elif isinstance(node, Quantised):
        *outputs, inputs = names
        # Groups stay whole where there are several, as the parts of the input that they belong to.
        whole = node.values.shape[0] > 1
        yield from (
            ((inputs, None, *outputs), (inputs, *outputs))
            if whole
            else ((None, inputs, *outputs), (None, *outputs))
        )
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            if not field.metadata.get("static"):
                declared = [
                    dataclasses.replace(axis, count=getattr(node, axis.count))
                    if isinstance(axis, Blocks)
                    else axis
                    for axis in field.metadata.get("axes", ())
                ]
                yield from _axes_of(getattr(node, field.name), tuple(declared))
    else:
        yield names


def _shortened(spec: PartitionSpec) -> PartitionSpec:
    # As compiled functions give it, which would otherwise be compiled again for what they gave.
    last = max((place for place, names in enumerate(spec, 1) if names), default=0)
    return PartitionSpec(*spec[:last])


@functools.cache
def _log_once(message: str) -> None:
    logging.info("%s", message)
