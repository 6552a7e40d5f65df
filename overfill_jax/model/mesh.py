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
    """A mesh over all devices of all processes, or over those given.

    Args:
      data: parts of the batch that hold whole copies of the weights.
      fsdp: parts of the batch over which the width of the weights is split as well.
      tensor: parts of heads, MLP and vocabulary; neighbours, for they talk the most.
      One of the three may be -1: what the others leave.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    wanted = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise InputError(f"mesh: found {wanted}, expected positive sizes, one of them may be -1")
    taken = math.prod(size for size in sizes.values() if size != -1)
    for axis in free:
        sizes[axis] = count // taken
    if math.prod(sizes.values()) != count:
        raise InputError(f"mesh: found {wanted}, which does not fit {count} devices")
    # Auto axes: the compiler places what the table of `layout.py` leaves open.
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=auto, devices=devices)
