"""What chips can do, as their vendors state it, and how many of them a topology has."""

import dataclasses
import difflib

import jax

from overfill_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: as in `CHIPS`.
      devices: what JAX calls it (`device_kind`).
      kind: "tpu" or "gpu".
      dimensions: that a topology may have: a TPU slice's torus; GPUs of one host, or hosts x GPUs.
      flops: dense bfloat16 FLOP/s at peak.
      memory: bytes of HBM that a program can use.
      bandwidth: bytes/s between HBM and the chip.
      links: bytes/s that it can receive from others of its slice or host.
      network: bytes/s of its own adapter to other hosts; of a TPU, whose links join the hosts of
        a slice, those.
    """

    name: str
    devices: tuple[str, ...]
    kind: str
    dimensions: tuple[int, ...]
    flops: float
    memory: int
    bandwidth: float
    links: float
    network: float


GIB = 2**30
# Links in one direction, which is half of what vendors add up. TPUs: cloud.google.com/tpu/docs,
# pages v5e, v5p and v6e; of their 16, 95 and 32 GB the compiler lets a program have what stands
# here. GPUs: NVIDIA's data sheets of the SXM parts, dense FLOP/s; networks of DGX systems, a
# 200 (A100) or 400 Gbit/s adapter for every GPU. CUDA and the runtime keep some of their 40,
# 80 and 141 GB.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v5e",
            ("TPU v5 lite", "TPU v5e"),
            "tpu",
            (2,),
            197e12,
            int(15.75 * GIB),
            819e9,
            200e9,
            200e9,
        ),
        Chip(
            "v5p",
            ("TPU v5", "TPU v5p"),
            "tpu",
            (3,),
            459e12,
            int(95.74 * GIB),
            2765e9,
            600e9,
            600e9,
        ),
        Chip(
            "v6e",
            ("TPU v6 lite", "TPU v6e"),
            "tpu",
            (2,),
            918e12,
            int(31.25 * GIB),
            1640e9,
            400e9,
            400e9,
        ),
        Chip(
            "h100", ("NVIDIA H100 80GB HBM3",), "gpu", (1, 2), 989e12, 78 * GIB, 3350e9, 450e9, 50e9
        ),
        Chip("h200", ("NVIDIA H200",), "gpu", (1, 2), 989e12, 139 * GIB, 4800e9, 450e9, 50e9),
        Chip(
            "a100",
            ("NVIDIA A100-SXM4-80GB",),
            "gpu",
            (1, 2),
            312e12,
            78 * GIB,
            2039e9,
            300e9,
            25e9,
        ),
        Chip(
            "a100_40gb",
            ("NVIDIA A100-SXM4-40GB",),
            "gpu",
            (1, 2),
            312e12,
            39 * GIB,
            1555e9,
            300e9,
            25e9,
        ),
    )
}


def find_chip(name: str) -> Chip:
    """The chip of this name.

    Raises:
      InputError: unknown; says the nearest known name.
    """
    if name not in CHIPS:
        near = difflib.get_close_matches(name.lower(), CHIPS, n=1, cutoff=0.0)
        raise InputError(
            f"plan.chip: found {name!r}, did you mean {near[0]!r}? Expected one of "
            f"{', '.join(CHIPS)}"
        )
    return CHIPS[name]


def local_chip() -> Chip | None:
    """The chip that JAX computes on here; None if it is not in `CHIPS`."""
    kind = jax.devices()[0].device_kind
    return next((chip for chip in CHIPS.values() if kind in chip.devices), None)


def parse_topology(chip: Chip, topology: str) -> tuple[int, ...]:
    """Sizes of a topology, such as (4, 4) of "4x4".

    Raises:
      InputError: not as many positive sizes as the chip's topologies have.
    """
    sizes = topology.split("x")
    whole = all(size.isdecimal() and int(size) for size in sizes)
    if not whole or len(sizes) not in chip.dimensions:
        example = {"v5p": "2x4x4", "v5e": "4x4", "v6e": "4x4"}.get(
            chip.name, "8 or, of two hosts, 2x8"
        )
        raise InputError(
            f"plan.topology: found {topology!r}, expected sizes such as {example} for {chip.name}"
        )
    return tuple(map(int, sizes))


def link_speed(chip: Chip, topology: tuple[int, ...]) -> float:
    """Bytes/s that a chip receives at most where all chips of the topology take part.

    What comes from another host comes once for all chips of a host, over all their adapters.
    """
    if chip.kind == "tpu" or len(topology) == 1 or topology[0] == 1:
        return chip.links
    return min(chip.links, chip.network * topology[1])
