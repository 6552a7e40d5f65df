"""Seconds of a step, MFU, tokens and hours of a run: a range, for what it depends on is assumed."""

import dataclasses
import math

import jax.numpy as jnp

from overfill_jax.chips import Chip
from overfill_jax.model.mesh import AXES
from overfill_jax.model.size import parameters
from overfill_jax.planning.memory import Memory
from overfill_jax.planning.workload import Workload

# Share of the peak that the products reach: well-shaped transformers on TPUs and H100s lie within.
REACHED = (0.65, 0.40)
# Share of packed rows' slots that hold a token.
FILLED = 0.95


@dataclasses.dataclass(frozen=True)
class Duration:
    """Of one step, the best case first, then the worst.

    Attributes:
      computing: seconds in which the chips multiply.
      talking: seconds in which weights and gradients are under way.
      updating: seconds in which the optimiser reads and writes its state.
      seconds: of the step.
      mfu: share of the peak that the model's FLOPs make of it.
    """

    computing: tuple[float, float]
    talking: float
    updating: float
    seconds: tuple[float, float]
    mfu: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Run:
    """The whole run: `tokens` in `steps`, and hours from best to worst case."""

    steps: int
    tokens: int
    hours: tuple[float, float]


def step_duration(work: Workload, memory: Memory, chip: Chip, link: float) -> Duration:
    """Predicts a step.

    In the best case communication hides behind the products, in the worst it does not.

    Args:
      work: the step.
      memory: of it.
      chip: that computes.
      link: bytes/s that a chip receives.
    """
    flops, peak = work.flops, chip.flops * work.mesh.size
    computing = tuple(flops.hardware / (peak * share) for share in REACHED)
    talking = received_bytes(work) / link
    # Masters and both moments are read and written, gradients read.
    parts = memory.parts
    state = 2 * (parts["float32 masters"] + parts["Adam moments"]) + parts["gradients"]
    updating = state / chip.bandwidth
    seconds = max(computing[0], talking) + updating, computing[1] + talking + updating
    return Duration(
        computing, talking, updating, seconds, tuple(flops.model / (peak * s) for s in seconds)
    )


def received_bytes(work: Workload) -> float:
    """Bytes that reach a chip in a step: split weights are gathered, gradients and streams summed.

    In every micro-batch the full model's weights come once, and those of the decoder's layers
    forward and backward; its gradients are summed over the parts of the batch. The losses gather
    the unembedding once and sum its gradient in float32. With a tensor axis each layer's stream
    is summed after attention and after the MLP: once forward, recomputed, and backward.
    """
    data, fsdp, tensor = (work.mesh.shape[axis] for axis in AXES)
    width = jnp.dtype(work.decoder.dtype).itemsize
    full, decoder = (width * parameters(config) / tensor for config in (work.full, work.decoder))
    unembedding = width * work.decoder.vocab_size * work.decoder.hidden_size / tensor
    layers = decoder - unembedding
    gathered = (full + 2 * layers + unembedding) * (1 - 1 / fsdp)
    # What is held whole receives the others' parts, and then their sums.
    trained = layers + unembedding * 4 / width
    summed = trained * (1 - 1 / (data * fsdp)) * (2 if data > 1 else 1)
    rows = work.rows // (work.accumulation * data * fsdp)
    passes = {"none": 4, "dots": 4, "full": 6}[work.remat]
    streams = work.full.num_layers * (
        2 * work.prompt_slots * work.full.hidden_size
        + passes * work.answer_slots * work.decoder.hidden_size
    )
    streamed = 2 * rows * width * streams * (1 - 1 / tensor)
    return work.accumulation * (gathered + summed + streamed)


def run_duration(
    work: Workload, duration: Duration, steps: int, tokens: int, epochs: int
) -> Run | None:
    """The whole run.

    Args:
      work: a step of it.
      duration: of a step.
      steps: 0 where the data decides.
      tokens: of the data, prompts and answers together; 0 where not known.
      epochs: passes over the data.

    Returns:
      None where neither steps nor tokens are known.
    """
    per_step = work.rows * work.row_slots * FILLED
    if not steps and not tokens:
        return None
    steps = steps or math.ceil(epochs * tokens / per_step)
    return Run(steps, round(steps * per_step), tuple(steps * s / 3600 for s in duration.seconds))
