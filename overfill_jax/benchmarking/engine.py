"""What continuous batching gains: the same requests one after another, and by the engine at once.

Weights are random, of true shapes. Prompts and answers are of ragged lengths, from half of
`benchmark.prompts` and `benchmark.answers` to the whole, so that answers end while others go on.
Both ways take turns, so that what a machine does beside falls on both.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import logging

from overfill_jax.benchmarking.inference import answer_all
from overfill_jax.benchmarking.systems import (
    FULL,
    TWO_STAGE,
    check_interval,
    make_pair,
    make_writer,
)
from overfill_jax.errors import InputError
from overfill_jax.inference.engine import Engine, Room
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import find_refresh
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.transformer import Model


@dataclasses.dataclass(frozen=True)
class Served:
    """One system at one size.

    Attributes:
      system: who answered.
      prompt, answer: most tokens of each request.
      tokens: of all answers.
      alone: seconds for all requests, one after another.
      together: seconds for all, by the engine.
      first: seconds from the submission of all to the first token, of every request.
    """

    system: str
    prompt: int
    answer: int
    tokens: int
    alone: float
    together: float
    first: list[float]

    @property
    def gain(self) -> float:
        """How many times the tokens a second."""
        return self.alone / self.together


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt, and how many tokens answer it."""

    prompt: list[int]
    answer: int


def time_serving(config: ml_collections.ConfigDict) -> list[Served]:
    """Every prompt and answer of the config with the full model and with both."""
    c = config.benchmark
    if c.requests < 1 or c.repeats < 1:
        raise InputError(
            f"benchmark.requests: found {c.requests}, benchmark.repeats: {c.repeats}, expected at "
            "least 1"
        )
    for name in ("prompts", "answers"):
        if not c[name] or min(c[name]) < 1:
            raise InputError(f"benchmark.{name}: found {tuple(c[name])}, expected positive numbers")
    if max(c.prompts) + max(c.answers) > config.engine.length:
        raise InputError(
            f"engine.length: found {config.engine.length}, but prompts of {max(c.prompts)} tokens "
            f"and answers of {max(c.answers)} are to be timed; expected room for both"
        )
    check_interval(config, -(-min(c.answers) // 2))
    full, decoder = make_pair(config)
    writer = make_writer(config, decoder)
    found = []
    for name, one in ((FULL, full), (TWO_STAGE, writer)):
        generator, engine = make_both(config, full, one)
        for prompt in c.prompts:
            for answer in c.answers:
                asked = draw(c.requests, prompt, answer, full.config.vocab_size)
                found.append(time_system(name, generator, engine, asked, c.repeats))
    return found


def make_both(
    config: ml_collections.ConfigDict, full: Model, writer: Model
) -> tuple[Generator, Engine]:
    """One request at a time and several, as `generate` says; the full model alone as it is."""
    c = config.generate
    room = Room(
        config.engine.slots, config.engine.length, config.benchmark.requests, config.engine.chunk
    )
    first_token, cache, refresh = "full", "", None
    if writer is not full:
        first_token, cache = c.first_token, c.cache
        refresh = find_refresh(
            c.refresh, c.refresh_interval, c.refresh_entropy, c.refresh_strictness
        )
    alone = Generator(full, writer, first_token, (), 0, refresh=refresh, cache=cache)
    reader, writer, _ = alone.pair
    return alone, Engine(reader, writer, first_token, (), None, cache, room, refresh)


def draw(count: int, prompt: int, answer: int, vocabulary: int) -> list[Asked]:
    """Requests of random tokens and lengths, the same in every run."""
    rng = np.random.default_rng(0)
    return [
        Asked(
            rng.integers(0, vocabulary, rng.integers(-(-prompt // 2), prompt + 1)).tolist(),
            int(rng.integers(-(-answer // 2), answer + 1)),
        )
        for _ in range(count)
    ]


def time_system(
    name: str, generator: Generator, engine: Engine, asked: Sequence[Asked], repeats: int
) -> Served:
    """The medians of `repeats` turns, behind one that compiles."""
    alone, together = [], []
    for turn in range(repeats + 1):
        alone.append(sum(answer_all(generator, [one.prompt], one.answer)[1] for one in asked))
        together.append(serve(engine, asked))
        logging.info("%s, %d requests: turn %d of %d", name, len(asked), turn, repeats)
    return Served(
        system=name,
        prompt=max(len(one.prompt) for one in asked),
        answer=max(one.answer for one in asked),
        tokens=sum(one.answer for one in asked),
        alone=statistics.median(alone[1:]),
        together=statistics.median(seconds for seconds, _ in together[1:]),
        first=together[-1][1],
    )


def serve(engine: Engine, asked: Sequence[Asked]) -> tuple[float, list[float]]:
    """Seconds to the last token of all, and to the first of each."""
    start = time.perf_counter()
    requests = [engine.submit(one.prompt, GREEDY, one.answer) for one in asked]
    first: dict[str, float] = {}
    while engine.busy:
        engine.step()
        now = time.perf_counter() - start
        first |= {r.name: now for r in requests if r.written and r.name not in first}
    return time.perf_counter() - start, [first[request.name] for request in requests]
