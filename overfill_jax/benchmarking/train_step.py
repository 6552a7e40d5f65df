"""The real train step at its true shape: what the compiler needs for it, and how fast it runs.

Weights are random, rows are filled with examples of random tokens, so neither a checkpoint nor
data is needed.
"""

import dataclasses
import functools
import math
import re
import statistics
import time

import jax
import ml_collections
import numpy as np
from absl import logging

from overfill_jax.chips import local_chip
from overfill_jax.data.batches import Batch, lay_out
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.transformer import Params, init
from overfill_jax.planning.workload import Workload, read_workload
from overfill_jax.training.placement import (
    Placement,
    abstract_inputs,
    compile_steps,
    make_placement,
    to_devices,
)
from overfill_jax.training.step import TrainState, init_state

# Steps before the clock starts, and examples in a packed row.
WARM_UP, EXAMPLES = 2, 4
_FLOAT32 = re.compile(r"\bf32\[([\d,]+)\]")


@dataclasses.dataclass(frozen=True)
class StepTime:
    """One way of running the step.

    Attributes:
      name: the settings that it differs in.
      compile_seconds: until the program was there.
      temporary: bytes on a chip at the peak, beside state, weights and batch.
      logits: bytes of the largest float32 array on a chip with the vocabulary as an axis, the
        gradient and the weights of (un)embedding left out.
      seconds: of each timed step; none where it was only compiled.
      tokens: answer and prompt tokens in a step.
      flops: of the model in a step, on one chip.
      peak: FLOP/s of the chip; None where it is not known.
    """

    name: str
    compile_seconds: float
    temporary: int
    logits: int
    seconds: tuple[float, ...]
    tokens: int
    flops: float
    peak: float | None

    @property
    def median(self) -> float | None:
        """Seconds of a step."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def mfu(self) -> float | None:
        """Share of the peak that the model's FLOPs make of the median step."""
        return self.flops / self.median / self.peak if self.seconds and self.peak else None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way of running the step, compiled for the devices here."""

    name: str
    work: Workload
    placement: Placement
    program: jax.stages.Compiled
    compile_seconds: float


def compile_variant(config: ml_collections.ConfigDict, name: str) -> Variant:
    """Compiles the train step of `config`, whose `plan.model` gives the full model's shape."""
    work = read_workload(config, jax.device_count())
    sizes = work.mesh.shape
    mesh = make_mesh(sizes["data"], sizes["fsdp"], sizes["tensor"])
    placement = make_placement(work.setup, mesh)
    step, _ = compile_steps(work.setup, placement)
    inputs = abstract_inputs(work.setup, placement, work.rows, work.slots, work.frozen_dtype)
    began = time.monotonic()
    with jax.set_mesh(mesh):
        program = step.lower(*inputs).compile()
    seconds = time.monotonic() - began
    logging.info("%s: compiled in %.0f s", name, seconds)
    return Variant(name, work, placement, program, seconds)


def time_variant(variant: Variant, name: str, steps: int) -> StepTime:
    """Runs it so many steps behind a warm-up; none where `steps` is 0."""
    batch, chip = fill(variant.work), local_chip()
    with jax.set_mesh(variant.placement.mesh):
        seconds = _run(variant, batch, steps) if steps else ()
    return StepTime(
        name=name,
        compile_seconds=variant.compile_seconds,
        temporary=variant.program.memory_analysis().temp_size_in_bytes,
        logits=largest_logits(variant.program.as_text(), variant.work),
        seconds=seconds,
        tokens=int(
            np.count_nonzero(batch.prompt_segments) + np.count_nonzero(batch.answer_segments)
        ),
        flops=variant.work.flops.model / jax.device_count(),
        peak=chip and chip.flops,
    )


def fill(work: Workload) -> Batch:
    """Rows of several examples each, filled to the last slot, of random tokens."""
    random = np.random.default_rng(0)
    rows = []
    for row in range(work.rows):
        cuts = [_shares(slots) for slots in work.slots]
        tokens = functools.partial(random.integers, work.full.vocab_size)
        rows.append(
            [
                (tokens(size=prompt), tokens(size=answer), row * EXAMPLES + index)
                for index, (prompt, answer) in enumerate(zip(*cuts, strict=True))
            ]
        )
    return lay_out(rows, *work.slots)


def largest_logits(program: str, work: Workload) -> int:
    """Bytes of the largest float32 array of a program that holds logits.

    Args:
      program: `as_text()` of it.
      work: that it is of.
    """
    vocabulary = work.full.vocab_size
    axes = {vocabulary, vocabulary // work.mesh.shape["tensor"]}
    widths = {work.full.hidden_size, work.decoder.hidden_size}
    widths |= {width // work.mesh.shape["fsdp"] for width in widths}
    found = [0]
    for match in _FLOAT32.finditer(program):
        shape = [int(size) for size in match[1].split(",")]
        others = [size for size in shape if size not in axes]
        if len(others) < len(shape) and not (len(others) == 1 and others[0] in widths):
            found.append(4 * math.prod(shape))
    return max(found)


def _shares(slots: int) -> list[int]:
    """So many slots, dealt out to the examples of a row."""
    bounds = np.linspace(0, slots, EXAMPLES + 1).astype(int)
    return np.diff(bounds).tolist()


def _run(variant: Variant, batch: Batch, steps: int) -> tuple[float, ...]:
    """Seconds of every step; each waits for the one before."""
    state, frozen = _weights(variant)
    rows = functools.partial(_rows, batch)
    batch = to_devices(rows, variant.work.rows, variant.placement.batch)
    seconds = []
    for _ in range(WARM_UP + steps):
        began = time.monotonic()
        state, metrics = variant.program(state, frozen, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.monotonic() - began)
    return tuple(seconds[WARM_UP:])


def _weights(variant: Variant) -> tuple[TrainState, dict[str, Params]]:
    """Random, each made where it is to lie."""
    work = variant.work

    def begin(key):
        return init_state(work.setup, {"decoder": init(work.decoder, key).params})

    def frozen(key):
        params = init(work.full, key).params
        return {"full": jax.tree.map(lambda x: x.astype(work.frozen_dtype), params)}

    key = jax.random.key(0)
    return (
        jax.jit(begin, out_shardings=variant.placement.state)(key),
        jax.jit(frozen, out_shardings=variant.placement.frozen)(key),
    )


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return jax.tree.map(lambda x: x[start:stop], batch)
