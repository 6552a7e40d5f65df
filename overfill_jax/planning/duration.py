"""Seconds of a step, MFU, tokens and hours of a run: a range, for what it depends on is assumed."""

import dataclasses
import math
from collections.abc import Iterable

import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding

from overfill_jax.chips import Chip
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import partition
from overfill_jax.model.mesh import AXES
from overfill_jax.planning.memory import Memory, Weight, weight_axes
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

    In every micro-batch the full model's layers come once, and the decoder's forward and backward;
    their gradients are summed over the parts of the batch. The losses gather each unembedding that
    they need once, and sum its gradient in float32. Looking up tokens gathers no table, but what
    is sent back to one is summed by all that hold the same part of it. With a tensor axis each
    layer's stream is summed after attention and after the MLP, as far as it splits these: once
    forward, recomputed, and backward.
    """
    full, decoder, mesh, setup = work.full, work.decoder, work.mesh, work.setup
    data, fsdp, tensor = (mesh.shape[axis] for axis in AXES)
    width = jnp.dtype(decoder.dtype).itemsize
    (frozen, _), (layers, slopes) = (_received(_layers(c), mesh) for c in (full, decoder))
    (answers, _), (table, exactly) = (_received([_table(c)], mesh) for c in (full, decoder))
    weights = width * (frozen + 2 * layers + table)
    if setup.objective.terms.kl_weight:
        weights += width * answers
    gradients = width * (slopes + exactly - table) + 4 * exactly
    rows = work.rows // (setup.accumulation * data * fsdp)
    passes = {"none": 2, "dots": 2, "full": 3}[setup.remat]
    streams = _stream_sums(full, mesh) * work.prompt_slots * full.hidden_size
    streams += passes * _stream_sums(decoder, mesh) * work.answer_slots * decoder.hidden_size
    streamed = 2 * rows * width * streams * (1 - 1 / tensor)
    return setup.accumulation * (weights + gradients + streamed)


def _received(arrays: Iterable[Weight], mesh: AbstractMesh) -> tuple[float, float]:
    """Numbers that reach a chip when weights are gathered, and when their gradients are summed."""
    data, fsdp, _ = (mesh.shape[axis] for axis in AXES)
    gathered = summed = 0.0
    for names, shape in arrays:
        spec, _ = partition(names, shape, mesh)
        split = "fsdp" in spec
        held = math.prod(NamedSharding(mesh, spec).shard_shape(shape))
        others = held * (fsdp - 1) if split else 0
        gathered += others
        # Several chips hold the same part: each receives the others' sums of it, then the whole's.
        holders = data if split else data * fsdp
        summed += others + 2 * held * (1 - 1 / holders)
    return gathered, summed


def _layers(config: ModelConfig) -> list[Weight]:
    """All weights but embedding and unembedding."""
    return [one for one in weight_axes(config) if "vocab" not in one[0]]


def _table(config: ModelConfig) -> Weight:
    """The embedding, or the unembedding: they lie alike, and may be one."""
    return ("embed", "vocab"), (config.hidden_size, config.vocab_size)


def _stream_sums(config: ModelConfig, mesh: AbstractMesh) -> int:
    """How often the stream is summed over the tensor axis: in a layer, behind each split part."""
    parts = {"heads": config.num_heads, "mlp": config.intermediate_size}
    splits = ("tensor" in partition((name,), (size,), mesh)[0] for name, size in parts.items())
    return config.num_layers * sum(splits)


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
