"""The one table from logical axes to mesh axes, for weights and activations alike.

Full model and decoder are laid out by the same table, each with its own widths. Nothing else in
the project says where an axis lies.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

# Axes that are not named here (layers, head_dim, rank, slots) are never split.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "embed": ("fsdp",),
}


def partition(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh
) -> tuple[PartitionSpec, list[str]]:
    """Where an array with these logical axes lies.

    Returns:
      The spec, in which an axis whose size the mesh does not divide is replicated; and these axes
      in words. Mesh axes that the table names and `mesh` lacks count as size 1.
    """
    spec, undivided = [], []
    for name, size in zip(axes, shape, strict=True):
        names = tuple(axis for axis in RULES.get(name, ()) if mesh.shape.get(axis, 1) > 1)
        if size % parts(name, mesh):
            undivided.append(f"{name} ({size} by {parts(name, mesh)})")
            names = ()
        spec.append(names if len(names) > 1 else next(iter(names), None))
    return PartitionSpec(*spec), undivided


def parts(name: str | None, mesh: Mesh | AbstractMesh) -> int:
    """In how many a mesh splits a logical axis that it divides."""
    return math.prod(mesh.shape.get(axis, 1) for axis in RULES.get(name, ()))


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
    """Tells the compiler where an activation lies, if a mesh is set (`jax.set_mesh`)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return array
    spec, _ = partition(axes, array.shape, mesh)
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))


def split_axes(name: str, size: int) -> tuple[str, ...]:
    """The axes of the mesh that is set which split a logical axis of this size."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return ()
    names = partition((name,), (size,), mesh)[0][0] or ()
    return (names,) if isinstance(names, str) else names


def on_parts(
    function: Callable[..., jax.Array],
    arrays: Sequence[jax.Array],
    axes: Sequence[Sequence[str | None]],
) -> jax.Array:
    """`function` of each device's own part of the arrays; one call where no mesh is set.

    For kernels, which the compiler cannot split.

    Args:
      function: keeps the parts apart; its result is laid out as the first array.
      arrays: its arguments.
      axes: the logical axes of each.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    specs = tuple(
        partition(names, array.shape, mesh)[0] for names, array in zip(axes, arrays, strict=True)
    )
    # A kernel does not say over which mesh axes its result varies, so this cannot be checked.
    return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def platform() -> str:
    """Where the program being traced will run: on the mesh, or on the default device.

    The mesh may be that of a machine elsewhere, for which the program is only compiled.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
