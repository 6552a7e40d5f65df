"""The real train step, compiled by XLA for chips that are not there.

Needs libtpu, in an environment of its own (`launch/requirements-tpu-compile.txt`) on a machine
without a TPU; a few minutes of one processor for an 8B model.
"""

import dataclasses
import importlib.util
import os
import time

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from overfill_jax.chips import Chip
from overfill_jax.errors import InputError
from overfill_jax.model.mesh import make_mesh
from overfill_jax.planning.collectives import Traffic, read_collectives
from overfill_jax.planning.workload import Workload
from overfill_jax.training.placement import abstract_inputs, compile_steps, make_placement


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says.

    Attributes:
      seconds: that it took.
      arguments: bytes on a chip that the step is given: state, weights and batch.
      peak: bytes on a chip at the fullest moment, arguments included.
      collectives: of a chip in a step, by kind.
      refusal: the compiler's words where the program does not fit; all else is 0 then.
    """

    seconds: float
    arguments: int = 0
    peak: int = 0
    collectives: dict[str, Traffic] = dataclasses.field(default_factory=dict)
    refusal: str = ""


def compile_step(work: Workload, chip: Chip, topology: str) -> Compiled:
    """Compiles the train step for a topology of TPUs.

    Raises:
      InputError: a GPU, libtpu is missing, or the topology is unknown to it.
    """
    mesh = tpu_mesh(work, chip, topology)
    placement = make_placement(work.setup, mesh)
    step, _ = compile_steps(work.setup, placement)
    # Outside of the mesh, on whose devices nothing can run.
    inputs = abstract_inputs(work.setup, placement, work.rows, work.slots, work.frozen_dtype)
    began = time.monotonic()
    try:
        with jax.set_mesh(mesh):
            program = step.lower(*inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(time.monotonic() - began, refusal=_in_words(str(error)))
    seconds, memory = time.monotonic() - began, program.memory_analysis()
    return Compiled(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        collectives=read_collectives(program.as_text()),
    )


def tpu_mesh(work: Workload, chip: Chip, topology: str) -> Mesh:
    """The run's mesh over devices that only the compiler knows.

    Raises:
      InputError: as `compile_step`.
    """
    if chip.kind != "tpu":
        raise InputError(
            f"plan.compile: found chip {chip.name!r}, expected a TPU; XLA compiles for a GPU only "
            "where there is one"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "plan.compile: libtpu is not installed; expected an environment of its own with "
            "launch/requirements-tpu-compile.txt"
        )
    # Otherwise libtpu asks the network which TPU this machine is.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip.name}:{topology}"
        )
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"plan.topology: libtpu does not know {topology!r} of {chip.name} "
            f"({_in_words(str(error))})"
        ) from error
    sizes = work.mesh.shape
    return make_mesh(sizes["data"], sizes["fsdp"], sizes["tensor"], found.devices)


def _in_words(message: str) -> str:
    """The first sentence of the compiler's message, on one line."""
    first = message.strip().splitlines()[0]
    return first.removeprefix("RESOURCE_EXHAUSTED: ")
