"""The engine's first half: prompts are read, a chunk a turn, until their answers can be written."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from overfill_jax.inference import engine_steps
from overfill_jax.inference.buckets import bucket, multiple
from overfill_jax.inference.compiled import Pairing, Writing
from overfill_jax.inference.generation import SMALLEST_PROMPT_BUCKET
from overfill_jax.inference.placement import place
from overfill_jax.inference.request import Request
from overfill_jax.inference.serving_cache import ServingCache
from overfill_jax.inference.serving_model import ServingModel

# Short prompts of like length that are read in one call, where as many wait: alone, one of them is
# too little work for the chip. (On CPUs eight take as long a token as four.)
TOGETHER = 4


@dataclasses.dataclass
class _Reading:
    """A prompt, or several short ones, of which `position` tokens have been read, into `cache`."""

    requests: Sequence[Request]
    tokens: np.ndarray
    position: int = 0
    cache: ServingCache | None = None


@dataclasses.dataclass(frozen=True)
class Ready:
    """A prompt that has been read and waits for a slot; its row is one of those read together."""

    request: Request
    rows: Writing
    index: int


class PromptReader:
    """Reads prompts on the mesh of prefill and leaves what answers begin with on that of decode."""

    def __init__(
        self,
        reader: ServingModel,
        prefill_mesh: Mesh,
        decode_mesh: Mesh,
        how: Pairing,
        chunk: int,
        length: int,
    ):
        """Takes the model as it lies on the mesh of prefill.

        Args:
          reader: reads.
          prefill_mesh, decode_mesh: where it does, and where the rows go.
          how: the cache goes from reader to writer.
          chunk: prompt tokens that are read in one turn.
          length: of the longest prompt with its answer, in tokens.
        """
        self._reader, self._how = reader, how
        self._prefill_mesh, self._decode_mesh = prefill_mesh, decode_mesh
        self._chunk, self._length = chunk, length
        self._reading: _Reading | None = None

    @property
    def count(self) -> int:
        """Prompts that have been read in part."""
        return len(self._reading.requests) if self._reading is not None else 0

    def drop_cancelled(self) -> None:
        """Gives up a prompt that nobody waits for any more."""
        if self._reading is not None and all(r.is_over for r in self._reading.requests):
            self._reading = None

    def read(self, queue: collections.deque[Request], wanted: int) -> list[Ready]:
        """Takes prompts from the queue and reads them until the chunk is full or enough are ready.

        Returns those that have been read whole: `wanted`, or a few more that were read together.
        """
        left, ready = self._chunk, []
        while left > 0 and len(ready) < wanted:
            if self._reading is None:
                requests = self._take_readable(queue, left)
                if not requests:
                    break
                self._reading = self._begin_reading(requests)
            tokens, read = self._read_on(self._reading)
            left, ready = left - tokens, ready + read
        return ready

    def padded(self, length: int) -> tuple[int, int]:
        """Tokens of a prompt's first chunk and slots of its cache, padding included: a few sizes.

        Prompts of several chunks share one size, so that a chunk's programs are told apart by what
        the chunk sees alone.
        """
        if length > self._chunk:
            return self._chunk, multiple(self._length, self._chunk)
        slots = min(bucket(length, SMALLEST_PROMPT_BUCKET), self._chunk)
        return slots, slots

    def _take_readable(self, queue: collections.deque[Request], left: int) -> list[Request]:
        """The prompts of the queue that one call reads next, of `left` tokens at most.

        They are the queue's head and others as long, which overtake those between them; so a
        prompt is overtaken by fewer than TOGETHER for each that was ahead of it.
        """
        if not queue:
            return []
        first, slots = self.padded(len(queue[0].prompt))
        if first > left:
            return []
        alike = (r for r in queue if self.padded(len(r.prompt)) == (first, slots))
        together = list(itertools.islice(alike, TOGETHER))
        if slots * TOGETHER > left or len(together) < TOGETHER:
            return [queue.popleft()]
        for request in together:
            queue.remove(request)
        return together

    def _begin_reading(self, requests: Sequence[Request]) -> _Reading:
        _, slots = self.padded(len(requests[0].prompt))  # of all of them
        tokens = np.zeros((len(requests), slots), np.int32)
        for row, request in zip(tokens, requests, strict=True):
            request.move_to("reading")
            row[: len(request.prompt)] = request.prompt
        return _Reading(requests, tokens)

    def _read_on(self, reading: _Reading) -> tuple[int, list[Ready]]:
        """Reads the next chunk: how many tokens that took, padding included, and what is ready."""
        tokens = reading.tokens[:, reading.position : reading.position + self._chunk]
        left = [len(request.prompt) - reading.position for request in reading.requests]
        counts = np.minimum(left, tokens.shape[1]).astype(np.int32)
        with jax.set_mesh(self._prefill_mesh):
            hidden = self._read_tokens(reading, tokens, counts)
            reading.position += tokens.shape[1]
            if max(left) > tokens.shape[1]:
                return tokens.size, []
            self._reading = None
            return tokens.size, self._begin_answers(reading.requests, hidden, reading.cache)

    def _read_tokens(self, reading: _Reading, tokens: np.ndarray, counts: np.ndarray) -> jax.Array:
        if reading.cache is None:
            hidden, reading.cache = engine_steps.read_first(
                self._reader, tokens, counts, slots=reading.tokens.shape[1]
            )
        else:
            filled = self._chunk * bucket(reading.position // self._chunk + 1, smallest=1)
            seen = min(filled, reading.cache.slots)
            hidden, reading.cache = engine_steps.read_chunk(
                self._reader, tokens, reading.cache, counts, seen=seen
            )
        return hidden

    def _begin_answers(
        self, requests: Sequence[Request], hidden: jax.Array, cache: ServingCache
    ) -> list[Ready]:
        """Hands over what was read together."""
        limits = [request.sampling.limits() for request in requests]
        rows = engine_steps.begin_answers(
            self._reader,
            hidden,
            np.array([request.prompt[-1] for request in requests]),
            cache,
            np.array([request.sampling.seed for request in requests], np.uint32),
            {name: np.array([of_one[name] for of_one in limits]) for name in limits[0]},
            how=self._how,
        )
        rows = place(rows, self._decode_mesh)
        return [Ready(request, rows, index) for index, request in enumerate(requests)]
