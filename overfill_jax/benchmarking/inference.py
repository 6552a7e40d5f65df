"""Answers of the full model, the decoder and both: time to the first token, and of the others.

Weights are random, of true shapes; prompts are random tokens, all of one length; answers run to
their full length. All systems answer in turn, so that what a machine does beside falls on all.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from overfill_jax.benchmarking import transformers_generate
from overfill_jax.benchmarking.planned import planned
from overfill_jax.benchmarking.systems import Systems, check_interval, make_pair, make_systems
from overfill_jax.chips import local_chip
from overfill_jax.errors import InputError
from overfill_jax.inference.compiled import CHUNK
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.inference.serving_cache import empty_cache
from overfill_jax.model import flops
from overfill_jax.model.config import ModelConfig

BANDWIDTH_BYTES = 2**28  # read to measure the bandwidth where the chip is not known


@dataclasses.dataclass(frozen=True)
class Answered:
    """One system at one size.

    Attributes:
      system: who answered.
      batch, prompt, answer: rows, and tokens of each.
      first: seconds to the first token, handoff included.
      total: seconds of the whole answer.
      compile_seconds: of the first answer, beyond what a later one takes.
      bytes: that a step reads on average, weights and filled cache of all rows.
      floor: seconds that reading them takes at `bandwidth`.
      handoff: seconds in which the prompts' cache crosses, measured alone; None where one model
        does both.
      peak: most bytes of the device so far; None where it does not tell.
      mfu: share of the chip's peak at which the prompts were read; None where it is not known.
      planned_first, planned_step: seconds that the planner says, where it knows the machine.
    """

    system: str
    batch: int
    prompt: int
    answer: int
    first: float
    total: float
    compile_seconds: float
    bytes: float | None
    floor: float | None
    handoff: float | None = None
    peak: int | None = None
    mfu: float | None = None
    planned_first: float | None = None
    planned_step: float | None = None

    @property
    def step(self) -> float:
        """Seconds from token to token."""
        return (self.total - self.first) / (self.answer - 1)

    @property
    def reached(self) -> float | None:
        """Share of the bandwidth at which a step reads."""
        return self.floor and self.floor / self.step


@dataclasses.dataclass(frozen=True)
class WithoutRoom:
    """One system that had no room in memory at one size, of which nothing can be timed."""

    system: str
    batch: int
    prompt: int
    answer: int


@dataclasses.dataclass(frozen=True)
class Timings:
    """What is known so far.

    Attributes:
      answers: of every system at every size that it had room for.
      without_room: the other systems and sizes.
      bandwidth: of the memory, bytes/s.
      models: their shapes, by name.
    """

    answers: list[Answered]
    without_room: list[WithoutRoom]
    bandwidth: float
    models: dict[str, ModelConfig]


def time_answers(config: ml_collections.ConfigDict) -> Iterator[Timings]:
    """Every batch, prompt and answer of the config with every system.

    Yields all that is known after each size, so that a run that is stopped has told what it found.

    Raises:
      InputError: a size that cannot be timed, or no system has room for any of them.
    """
    c = config.benchmark
    for name in ("batches", "prompts", "answers"):
        least = 2 if name == "answers" else 1  # a first token, and one that can be timed behind it
        if not c[name] or min(c[name]) < least:
            raise InputError(
                f"benchmark.{name}: found {tuple(c[name])}, expected numbers of at least {least}"
            )
    if c.repeats < 1:
        raise InputError(f"benchmark.repeats: found {c.repeats}, expected at least 1")
    check_interval(config, min(c.answers))
    full, decoder = make_pair(config)
    systems = make_systems(config, full, decoder)
    if max(c.prompts) + max(c.answers) > systems.longest:
        raise InputError(
            f"benchmark.prompts: found {max(c.prompts)}, with answers of {max(c.answers)} more "
            f"than the {systems.longest} positions of the model"
        )
    bandwidth = read_bandwidth()
    others = transformers_generate.load(full) if c.transformers else {}
    models = {"full": full.config, "decoder": decoder.config}
    found, without_room = [], []
    for size in itertools.product(c.batches, c.prompts, c.answers):
        answered, lacking = time_size(systems, others, size, c.repeats, bandwidth)
        found += answered
        without_room += lacking
        if not found:  # nobody has had room so far
            continue
        told = with_plan(config, found, full.config, decoder.config)
        yield Timings(told, list(without_room), bandwidth, models)
    if not found:
        raise InputError(
            f"benchmark.batches: found {tuple(c.batches)}, for none of which any system has room "
            "in memory; expected smaller ones, or shorter benchmark.prompts and benchmark.answers"
        )


def with_plan(
    config: ml_collections.ConfigDict,
    found: list[Answered],
    full: ModelConfig,
    decoder: ModelConfig,
) -> list[Answered]:
    """The same with what the planner says, where it knows the machine and the system."""
    sizes = list(dict.fromkeys((one.batch, one.prompt, one.answer) for one in found))
    times = planned(config, full, decoder, local_chip(), sizes)

    def put(one: Answered) -> Answered:
        plan = times.get((one.system, (one.batch, one.prompt, one.answer)))
        if plan is None:
            return one
        step = float(plan.total - plan.first_token) / (one.answer - 1)
        return dataclasses.replace(one, planned_first=float(plan.first_token), planned_step=step)

    return [put(one) for one in found]


def read_bandwidth() -> float:
    """Bytes/s of the memory: the vendor's figure, or what a large sum reaches here."""
    chip = local_chip()
    if chip is not None:
        return chip.bandwidth
    values = jnp.ones(BANDWIDTH_BYTES // 4, jnp.float32)
    add = jax.jit(jnp.sum)
    return BANDWIDTH_BYTES / min(
        _seconds(lambda: add(values).block_until_ready()) for _ in range(6)
    )


def time_size(
    systems: Systems,
    others: dict[str, Callable],
    size: tuple[int, int, int],
    repeats: int,
    bandwidth: float,
) -> tuple[list[Answered], list[WithoutRoom]]:
    """All systems at one size, in turn; and those that have no room for it."""
    batch, prompt, answer = size
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, systems.vocabulary, (batch, prompt)).tolist()
    run = {
        name: lambda generator=generator: answer_all(generator, prompts, answer)
        for name, generator in systems.generators.items()
    } | {name: lambda other=other: other(prompts, answer) for name, other in others.items()}
    times = {}
    for turn in range(repeats + 1):
        for name, answer_once in run.items():
            if times.get(name, ()) is None:
                continue
            try:
                times.setdefault(name, []).append(answer_once())
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                times[name] = None
                logging.warning("%s: out of memory at %s", name, size)
        logging.info("batch %d, %d in, %d out: turn %d of %d", *size, turn, repeats)
    found, without_room = [], []
    for name, all_times in times.items():
        if all_times is None:
            without_room.append(WithoutRoom(name, *size))
            continue
        (first, *_), later = all_times, all_times[1:]
        total = statistics.median(one[1] for one in later)
        one = Answered(
            system=name,
            batch=batch,
            prompt=prompt,
            answer=answer,
            first=statistics.median(one[0] for one in later),
            total=total,
            compile_seconds=max(first[1] - total, 0.0),
            bytes=None,
            floor=None,
        )
        if name in systems.weights:
            one = with_counts(one, systems, bandwidth, repeats)
        found.append(one)
    return found, without_room


def with_counts(one: Answered, systems: Systems, bandwidth: float, repeats: int) -> Answered:
    """The same with bytes and FLOPs that its shapes imply, the handoff and the memory."""
    generator = systems.generators[one.system]
    reader, writer, how = generator.pair
    context = one.prompt + one.answer / 2
    read = systems.weights[one.system] + one.batch * context * systems.cached[one.system]
    chip, shape = local_chip(), reader.config
    work = flops.reading(shape, one.batch, one.prompt)
    handoff = None
    if writer is not reader:
        cache = empty_cache(shape, one.batch, one.prompt, shape.dtype)
        cross = jax.jit(lambda cache: cache.crossing(how.kept).astype(how.dtype))
        times = [_seconds(lambda: jax.block_until_ready(cross(cache))) for _ in range(repeats + 1)]
        handoff = statistics.median(times[1:])
    stats = jax.devices()[0].memory_stats() or {}
    return dataclasses.replace(
        one,
        bytes=read,
        floor=read / bandwidth,
        handoff=handoff,
        peak=stats.get("peak_bytes_in_use"),
        mfu=chip and work / one.first / chip.flops,
    )


def answer_all(
    generator: Generator, prompts: Sequence[Sequence[int]], answer: int
) -> tuple[float, float]:
    """Seconds to the first token, and to the last."""
    drafts = {row: generator.draft(answer) for row in range(len(prompts))}
    start = time.perf_counter()
    growing = generator.grow(drafts, prompts, len(prompts), GREEDY, answer, CHUNK)
    for _ in growing:
        if all(draft.written for draft in drafts.values()):
            break
    first = time.perf_counter() - start
    for _ in growing:
        pass
    return first, time.perf_counter() - start


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
