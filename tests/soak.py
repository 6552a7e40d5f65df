"""Thousands of mixed requests through one engine: whether it forgets, leaks or mixes them up.

    python -m tests.soak [--requests=2000] [--checked=200] [--refresh=0]

Prompts, answers and ways of sampling at random; some are bad, some are cancelled at a random
moment, and so many come at once that the queue is full at times. With `--refresh` answers are
refreshed every so many tokens, or where the decoder is unsure. Prints a summary; ends with 1 if
an answer is not that of a single request, if a bad one is not refused, or if memory grows: the
arrays on the devices at all, the process by more than a twentieth.
"""

import argparse
import collections
import dataclasses
import random
import resource
import sys

import jax

from overfill_jax.errors import InputError
from overfill_jax.inference.engine import Engine, QueueFull, Room
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.request import Request
from overfill_jax.inference.sampling import Sampling
from tests.builders import CONFIG, random_model
from tests.inference.doubles import Spelled

# Four of the short prompts fit into a chunk, the longest take two.
ROOM = Room(slots=8, length=96, queue=16, chunk=64)
SHARE_BAD, SHARE_CANCELLED = 0.1, 0.15
LETTERS = Spelled(lambda ids: "".join(chr(97 + int(i)) for i in ids))


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request consists of."""

    prompt: list[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    most: int
    stop: tuple[str, ...]

    def arguments(self) -> tuple:
        """Those of `Engine.submit`."""
        sampling = Sampling(self.temperature, self.top_k, self.top_p, self.seed)
        return self.prompt, sampling, self.most, self.stop


@dataclasses.dataclass
class Outcome:
    """What has become of the requests.

    Attributes:
      counts: of requests by what became of them, and of times that the queue was full.
      wrong: answers that are not those of a single request, and bad requests that were taken.
      checked: answers that were compared.
      arrays, bytes: on the device, with nothing under way, when all was warm and at the end.
      peak: of the process's memory, in MiB, at both moments.
    """

    counts: collections.Counter
    wrong: list[str]
    checked: int
    arrays: list[int]
    bytes: list[int]
    peak: list[float]

    @property
    def grown(self) -> bool:
        """Whether anything was left behind."""
        device = self.arrays[1] > self.arrays[0] or self.bytes[1] > self.bytes[0]
        return device or self.peak[1] > 1.05 * self.peak[0]

    def look(self) -> None:
        """Takes down the memory in use."""
        alive = jax.live_arrays()
        self.arrays.append(len(alive))
        self.bytes.append(sum(array.nbytes for array in alive))
        self.peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def draw(rng: random.Random, shortest: int) -> Asked:
    """A request that can be answered, with at least so many tokens."""
    longest = rng.choice((16, 40, 72))
    prompt = [rng.randrange(CONFIG.vocab_size) for _ in range(rng.randint(1, longest))]
    stop = rng.choice(((), ("zz", "never"), (chr(97 + rng.randrange(CONFIG.vocab_size)),)))
    temperature, top_k, top_p = rng.choice(((0.0, 0, 1.0), (1.0, 0, 1.0), (0.8, 10, 0.9)))
    most = rng.randint(shortest, 24)
    return Asked(prompt, temperature, top_k, top_p, rng.randrange(2**32), most, stop)


def spoil(asked: Asked, rng: random.Random) -> Asked:
    """The same with one thing wrong."""
    change = rng.choice(
        (
            {"prompt": []},
            {"prompt": [*asked.prompt, CONFIG.vocab_size]},
            {"prompt": [1] * (ROOM.length - asked.most + 1)},
            {"most": 0},
            {"most": CONFIG.max_position},
            {"temperature": -1.0},
            {"top_p": 0.0},
            {"top_p": 1.5},
            {"stop": ("",)},
            {"stop": (5,)},
            {"most": 2.5},
        )
    )
    return dataclasses.replace(asked, **change)


def soak(requests: int, checked: int, seed: int, interval: int = 0) -> Outcome:
    """So many requests, of whose answers about `checked` are compared, and all of the first ones.

    Answers are refreshed every `interval` tokens, and earlier where the decoder is unsure.
    """
    rng = random.Random(seed)
    full, decoder = random_model(0), random_model(1, hidden_size=14, intermediate_size=20)
    refresh = Refresh(interval, entropy=2.5) if interval else None
    engine = Engine(full, decoder, "full", (5,), LETTERS, "", ROOM, refresh)
    engine.warm_up()
    alone = Generator(full, decoder, "full", (5,), 0, LETTERS, refresh)
    outcome = Outcome(collections.Counter(), [], 0, [], [], [])
    compare_every = max(1, int((1 - SHARE_BAD - SHARE_CANCELLED) * requests / checked))
    open_requests: list[tuple[Asked, Request]] = []
    to_come, answered = requests, 0
    while to_come or engine.busy:
        warm = to_come <= requests * 3 // 4
        new = rng.choice((0, 0, 1, 2, 24)) if outcome.arrays or not warm else 0
        for _ in range(min(to_come, new)):
            if not _submit(engine, draw(rng, max(1, interval)), rng, outcome, open_requests):
                break
            to_come -= 1
        for _, request in open_requests:
            if rng.random() < SHARE_CANCELLED / 20:  # of about 20 turns that a request lasts
                request.cancel()
        engine.step()
        for asked, request in [one for one in open_requests if one[1].is_over]:
            outcome.counts[request.stage] += 1
            if request.stage == "ended":
                answered += 1
                # All of them until memory is looked at, so that nothing is compiled afterwards.
                if not outcome.arrays or answered % compare_every == 0:
                    _compare(alone, asked, request, outcome)
        open_requests = [one for one in open_requests if not one[1].is_over]
        if warm and not outcome.arrays and not engine.busy:
            outcome.look()
    outcome.look()
    return outcome


def _submit(
    engine: Engine, asked: Asked, rng: random.Random, outcome: Outcome, open_requests: list
) -> bool:
    """Whether there was room for it, or for its refusal."""
    bad = rng.random() < SHARE_BAD
    asked = spoil(asked, rng) if bad else asked
    try:
        request = engine.submit(*asked.arguments())
    except QueueFull:
        outcome.counts["times that the queue was full"] += 1
        return False
    except InputError:
        outcome.counts["refused"] += 1
        if not bad:
            outcome.wrong.append(f"{asked} was refused")
    else:
        open_requests.append((asked, request))
        if bad:
            outcome.wrong.append(f"{asked} was taken")
    return True


def _compare(alone: Generator, asked: Asked, request: Request, outcome: Outcome) -> None:
    prompt, sampling, most, stop = asked.arguments()
    outcome.checked += 1
    if request.answer() != alone.generate([prompt], sampling, most, 1, stop)[0]:
        outcome.wrong.append(f"{asked} was answered otherwise")


def main() -> None:
    """Prints the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--checked", type=int, default=200)
    parser.add_argument("--refresh", type=int, default=0)
    given = parser.parse_args()
    outcome = soak(given.requests, given.checked, seed=0, interval=given.refresh)
    print(", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items())))
    print(f"{outcome.checked} answers compared with single requests, {len(outcome.wrong)} wrong")
    for name in ("arrays", "bytes", "peak"):
        before, after = getattr(outcome, name)
        print(f"{name}: {before:.0f} after a quarter, {after:.0f} at the end")
    print(*outcome.wrong, sep="\n", end="")
    sys.exit(bool(outcome.wrong) or outcome.grown)


if __name__ == "__main__":
    main()
