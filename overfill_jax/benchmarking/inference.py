"""Answers of the full model, the decoder and both: time to the first token, and of the others.

Weights are random, of true shapes; prompts are random tokens, all of one length; answers run to
their full length. All systems answer in turn, so that what a machine does beside falls on all.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from overfill_jax.benchmarking import transformers_generate
from overfill_jax.chips import local_chip
from overfill_jax.errors import InputError
from overfill_jax.inference.compiled import CHUNK
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import find_refresh
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.quantised import Scheme, quantise_model, stored_bytes
from overfill_jax.model.transformer import Model, abstract
from overfill_jax.planning.workload import pruned_shape, read_shape

FULL, DECODER, TWO_STAGE = "full", "decoder alone", "two-stage"
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

    @property
    def step(self) -> float:
        """Seconds from token to token."""
        return (self.total - self.first) / (self.answer - 1)

    @property
    def reached(self) -> float | None:
        """Share of the bandwidth at which a step reads."""
        return self.floor and self.floor / self.step


@dataclasses.dataclass(frozen=True)
class Systems:
    """What is timed: generators by name, with the bytes of weights that one step reads."""

    generators: dict[str, Generator]
    weights: dict[str, float]
    cached: dict[str, int]
    vocabulary: int
    longest: int


def time_answers(config: ml_collections.ConfigDict) -> tuple[list[Answered], float]:
    """Every batch, prompt and answer of the config with every system; and the bandwidth."""
    c = config.benchmark
    for name in ("batches", "prompts", "answers"):
        if not c[name] or min(c[name]) < (2 if name == "answers" else 1):
            raise InputError(f"benchmark.{name}: found {tuple(c[name])}, expected positive numbers")
    if c.repeats < 1:
        raise InputError(f"benchmark.repeats: found {c.repeats}, expected at least 1")
    full, decoder = make_pair(config)
    systems = make_systems(config, full, decoder)
    if max(c.prompts) + max(c.answers) > systems.longest:
        raise InputError(
            f"benchmark.prompts: found {max(c.prompts)}, with answers of {max(c.answers)} more "
            f"than the {systems.longest} positions of the model"
        )
    bandwidth = read_bandwidth()
    others = transformers_generate.load(full) if c.transformers else {}
    found = []
    for batch in c.batches:
        for prompt in c.prompts:
            for answer in c.answers:
                found += time_size(systems, others, (batch, prompt, answer), c.repeats, bandwidth)
    return found, bandwidth


def make_pair(config: ml_collections.ConfigDict) -> tuple[Model, Model]:
    """Random models of the shapes in `plan.model` and `prune`, in the dtype of `generate`."""
    shape = read_shape(config.plan.model)
    shape = dataclasses.replace(shape, dtype=config.generate.dtype, attention=config.attention)
    return random_weights(shape, 0), random_weights(pruned_shape(shape, config.prune), 1)


def random_weights(config: ModelConfig, seed: int) -> Model:
    """Small random weights, drawn where they will lie, array by array."""
    shapes = abstract(config, config.dtype)
    leaves, tree = jax.tree.flatten(shapes.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    @functools.partial(jax.jit, static_argnums=1)
    def draw(key, like):
        return 0.02 * jax.random.normal(key, like.shape, like.dtype)

    drawn = [draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)]
    return Model(config, tree.unflatten(drawn))


def make_systems(config: ml_collections.ConfigDict, full: Model, decoder: Model) -> Systems:
    """The full model, the decoder, and both as `generate` and `quantise` say."""
    c = config.generate
    refresh = find_refresh(c.refresh, c.refresh_interval, c.refresh_entropy, c.refresh_strictness)
    writer = decoder
    if config.benchmark.precision:
        scheme = Scheme(config.benchmark.precision, config.quantise.group)
        writer = quantise_model(decoder, scheme)
    generators = {
        FULL: Generator(full, full, "full", (), 0),
        DECODER: Generator(writer, writer, "full", (), 0, cache=c.cache),
        TWO_STAGE: Generator(full, writer, c.first_token, (), 0, refresh=refresh, cache=c.cache),
    }
    return Systems(
        generators=generators,
        weights={
            FULL: read_bytes(full),
            DECODER: read_bytes(writer),
            TWO_STAGE: read_bytes(writer),
        },
        cached={
            name: cache_bytes(full.config, "" if name == FULL else c.cache) for name in generators
        },
        vocabulary=full.config.vocab_size,
        longest=full.config.max_position,
    )


def read_bytes(model: Model) -> float:
    """Of the weights that one step reads: not of an embedding that does not unembed as well."""
    embed = model.params["embed"] if "unembed" in model.params else {}
    return stored_bytes(model.params) - stored_bytes(embed)


def cache_bytes(config: ModelConfig, cache: str) -> int:
    """Of one token's keys and values."""
    width = jnp.dtype(config.dtype).itemsize
    entry = config.head_dim + width if cache == "int8" else config.head_dim * width
    return 2 * config.num_layers * config.num_kv_heads * entry


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
) -> list[Answered]:
    """All systems at one size, in turn."""
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
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                times[name] = None
                logging.warning("%s: out of memory at %s", name, size)
        logging.info("batch %d, %d in, %d out: turn %d of %d", *size, turn, repeats)
    found = []
    for name, all_times in times.items():
        if all_times is None:
            continue
        (first, *_), later = all_times, all_times[1:]
        total = statistics.median(one[1] for one in later)
        read = None
        if name in systems.weights:
            context = prompt + answer / 2
            read = systems.weights[name] + batch * context * systems.cached[name]
        found.append(
            Answered(
                system=name,
                batch=batch,
                prompt=prompt,
                answer=answer,
                first=statistics.median(one[0] for one in later),
                total=total,
                compile_seconds=first[1] - total,
                bytes=read,
                floor=read and read / bandwidth,
            )
        )
    return found


def answer_all(
    generator: Generator, prompts: Sequence[Sequence[int]], answer: int
) -> tuple[float, float]:
    """Seconds to the first token, and to the last."""
    drafts = {row: generator.draft(answer) for row in range(len(prompts))}
    start = time.perf_counter()
    growing = generator.grow(drafts, prompts, len(prompts), GREEDY, answer, CHUNK)
    next(growing)
    first = time.perf_counter() - start
    for _ in growing:
        pass
    return first, time.perf_counter() - start


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
