"""The mesh of devices: `data`, `fsdp` and `tensor`, all three always there."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from overfill_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices of all processes, or over those given; sizes as in `mesh_sizes`.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = mesh_sizes(data, fsdp, tensor, count, f"{count} devices")
    # Auto axes: the compiler places what the table of `layout.py` leaves open.
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)


def as_ours(mesh: Mesh) -> Mesh:
    """A mesh of the user's own, over the same devices, such as `jax.make_mesh` makes them.

    Raises:
      InputError: an axis that is none of ours.
    """
    strange = [name for name in mesh.axis_names if name not in AXES]
    if strange:
        raise InputError(f"mesh: found axis {strange[0]!r}, expected of {', '.join(AXES)}")
    return Mesh(mesh.devices, mesh.axis_names)  # whose axes are Auto


def mesh_sizes(data: int, fsdp: int, tensor: int, count: int, place: str) -> tuple[int, int, int]:
    """The sizes of the three axes on `count` devices.

    Args:
      data: parts of the batch that hold whole copies of the weights.
      fsdp: parts of the batch over which the width of the weights is split as well.
      tensor: parts of heads, MLP and vocabulary; neighbours, for they talk the most.
      count: of devices. One of the three sizes may be -1: what the others leave of them.
      place: what the error calls the devices.

    Raises:
      InputError: they do not fit the devices.
    """
    sizes = [data, fsdp, tensor]
    wanted = ", ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 for size in sizes if size != -1):
        raise InputError(f"mesh: found {wanted}, expected positive sizes, one of them may be -1")
    left = count // math.prod(size for size in sizes if size != -1)
    resolved = tuple(left if size == -1 else size for size in sizes)
    if math.prod(resolved) != count:
        raise InputError(f"mesh: found {wanted}, which does not fit {place}")
    return resolved
