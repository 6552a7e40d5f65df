"""Continuous batching: answers of many requests at once, each as if it were alone.

Answers are written side by side in slots; one that has ended makes room for the next while the
others go on. Full model and decoder may have a mesh each, the paper's prefill and decode apart:
then only a prompt's cache goes from one to the other.

With refresh a turn writes one block of every answer, so that all end their blocks together, and
each answer's blocks begin where they would if it were alone.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm.auto import tqdm

from overfill_jax import two_stage
from overfill_jax.data.tokenizers import Ids, Tokenizer
from overfill_jax.errors import InputError
from overfill_jax.inference.answers import Draft
from overfill_jax.inference.arguments import tokens_of
from overfill_jax.inference.compiled import CHUNK, NO_TOKEN, Pairing, write_chunk
from overfill_jax.inference.generation import check_pair, check_prompt
from overfill_jax.inference.placement import mesh_of
from overfill_jax.inference.prompt_reader import TOGETHER, PromptReader, Ready
from overfill_jax.inference.refresh import Refresh, Tally, write_block
from overfill_jax.inference.request import Request
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.serving_model import ServingModel, lay_out
from overfill_jax.inference.slots import Slots
from overfill_jax.model.transformer import Model

# Slots that a step reads, doubled until they hold the longest answer: a program for each size.
SMALLEST_SEEN = 128


class QueueFull(InputError):
    """As many requests wait as may; later there may be room."""


@dataclasses.dataclass(frozen=True)
class Room:
    """What an engine has room for.

    Attributes:
      slots: answers that are written at once, at most.
      length: tokens of prompt and answer together that a slot holds.
      queue: requests that may wait.
      chunk: prompt tokens that are read in one turn, of one prompt or of several: what answers
        wait for at most.

    Raises:
      InputError: names the field that is below 1.
    """

    slots: int
    length: int
    queue: int
    chunk: int

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise InputError(f"Room: {name} is {value}, expected at least 1")


class Engine:
    """Answers requests as they come, several at once; `step` is one turn of all of them."""

    def __init__(
        self,
        reader: Model | ServingModel,
        writer: Model | ServingModel,
        first_token: str,
        stop_ids: Sequence[int],
        tokenizer: Tokenizer | None,
        cache: str,
        room: Room,
        refresh: Refresh | None = None,
        prefill_mesh: Mesh | None = None,
        decode_mesh: Mesh | None = None,
    ):
        """Joins two models, as `Generator` does.

        Args:
          reader, writer, first_token, stop_ids, tokenizer, cache: as of `Generator`, whose `pair`
            may be shared.
          room: for how much.
          refresh: as of `Generator`.
          prefill_mesh: where the reader lives; if not given, where its weights lie.
          decode_mesh: where the writer does; with the reader, if not given. Elsewhere, and with
            refresh, it holds the reader as well, to read the answers.

        Raises:
          InputError: as `Generator`.
        """
        check_pair(reader.config, writer.config, first_token, cache)
        self._prefill_mesh = prefill_mesh or mesh_of(reader)
        self._decode_mesh = decode_mesh or self._prefill_mesh
        self._reader = lay_out(reader, self._prefill_mesh)
        same = writer is reader and self._decode_mesh == self._prefill_mesh
        self._writer = self._reader if same else lay_out(writer, self._decode_mesh)
        self._stop_ids = np.asarray(stop_ids, np.int32)
        self._tokenizer = tokenizer
        self._refresh, self.tally = refresh, Tally()
        # A no-op where it lies on that mesh already.
        self._refresher = lay_out(self._reader, self._decode_mesh) if refresh else None
        kept, dtype = two_stage.crossing(reader.config, writer.config), cache or writer.config.dtype
        self._how = Pairing(kept, dtype, first_token, reads_on=refresh is not None)
        self._room = room
        # A block may reach beyond the answer's end.
        self._length = room.length + (refresh.interval if refresh else 0)
        self._queue: collections.deque[Request] = collections.deque()
        self._prompts = PromptReader(
            self._reader, self._prefill_mesh, self._decode_mesh, self._how, room.chunk, room.length
        )
        self._ready: list[Ready] = []
        self._slots = Slots(
            reader.config, writer.config, self._how, self._decode_mesh, room.slots, self._length
        )
        self._submitted = 0

    def submit(
        self,
        prompt: Ids,
        sampling: Sampling,
        max_new_tokens: int,
        stop: str | Sequence[str] = (),
    ) -> Request:
        """Puts a request at the queue's end; turns of the engine answer it.

        Raises:
          InputError: names the request and what is wrong: the prompt is empty, holds a token that
            the models lack, or is with its answer too long for them or for a slot; an answer too
            short for the refresh; a stop string that cannot be looked for; no way of sampling.
          QueueFull: too many wait already.
        """
        name = f"request {self._submitted}"
        self._submitted += 1
        self._drop_cancelled()
        try:
            tokens = self._checked(prompt, sampling, max_new_tokens)
            draft = Draft(max_new_tokens, self._stop_ids.tolist(), stop, self._tokenizer)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if len(self._queue) >= self._room.queue:
            raise QueueFull(
                f"{name}: {len(self._queue)} requests wait already, the queue holds "
                f"{self._room.queue}; expected to be asked again later"
            )
        request = Request(name, np.array(tokens, np.int32), sampling, max_new_tokens, draft)
        self._queue.append(request)
        return request

    def _checked(self, prompt: object, sampling: object, max_new_tokens: int) -> list[int]:
        """The tokens of a prompt that can be answered so."""
        tokens = tokens_of(prompt)
        for model in (self._reader, self._writer):
            check_prompt(tokens, max_new_tokens, model.config, "prompt")
        if self._refresh is not None:
            self._refresh.check_answer(max_new_tokens)
        if not isinstance(sampling, Sampling):
            raise InputError(f"sampling: found {sampling!r}, expected a Sampling")
        if len(tokens) + max_new_tokens > self._room.length:
            raise InputError(
                f"{len(tokens)} tokens and {max_new_tokens} new ones make "
                f"{len(tokens) + max_new_tokens}, a slot of the engine holds {self._room.length}"
            )
        return tokens

    def warm_up(self, show_progress: bool = False) -> None:
        """Compiles whatever requests can take, and runs it once; before the first of them.

        No request is then kept waiting by a compilation.

        Raises:
          InputError: there are requests already.
        """
        self._drop_cancelled()
        if self.busy:
            raise InputError("warm_up: found requests under way, expected to be called before them")
        possible = range(1, self._room.length)
        shortest = {}  # of prompts that are read by programs of their own
        for length in possible:
            shortest.setdefault(self._prompts.padded(length), length)
        # The longest passes through all chunks that there are.
        calls = [(1, length) for length in (*shortest.values(), *possible[-1:])]
        if self._room.queue >= TOGETHER:
            most = self._room.chunk // TOGETHER
            calls += [(TOGETHER, n) for (_, slots), n in shortest.items() if slots <= most]
        seen = sorted({self._seen(filled) for filled in range(1, self._length + 1)})
        tally, self.tally = self.tally, Tally()
        total = len(calls) + len(seen) * len(self._slots.sizes)
        with tqdm(total=total, disable=not show_progress) as bar:
            for count, length in calls:
                self._warm_up_reading(count, length)
                bar.update()
            for _ in self._slots.every_size():
                for slots in seen:
                    self._warm_up_writing(slots)
                    bar.update()
        self.tally = tally

    def _warm_up_reading(self, count: int, length: int) -> None:
        """Reads so many prompts of that length, and lets them take slots, free as before."""
        draft, tokens = Draft(1, (), (), None), np.zeros(length, np.int32)
        queue = collections.deque(
            Request("warm_up", tokens, GREEDY, 1, draft) for _ in range(count)
        )
        ready: list[Ready] = []
        while len(ready) < count:
            ready += self._prompts.read(queue, count)
        for _ in self._slots.every_size():
            self._slots.put(ready[0], 0)

    def _warm_up_writing(self, seen: int) -> None:
        """Writes nothing, for every row has ended."""
        ended = np.ones(self._slots.rows, bool)
        if self._refresh is not None:
            jax.block_until_ready(self._write_block(ended, seen))
        else:
            steps = np.zeros(self._slots.rows, np.int32)
            jax.block_until_ready(self._write_chunk(ended, steps, seen))

    @property
    def busy(self) -> bool:
        """Whether a turn would do anything."""
        return self._waiting or bool(self._ready) or any(self._slots.requests)

    @property
    def _waiting(self) -> bool:
        """Whether prompts wait to be read, or to be read on."""
        return bool(self._queue) or self._prompts.count > 0

    def run(self) -> None:
        """Turns until every request is over."""
        while self.busy:
            self.step()

    def stream(self, request: Request) -> Iterator[str]:
        """The text of one answer in pieces, as turns bring it; all other answers grow as well.

        Raises:
          InputError: the request was cancelled.
        """
        while True:
            if text := request.release():
                yield text
            if request.is_over:
                request.answer()
                return
            self.step()

    def step(self) -> None:
        """One turn: a chunk of prompts is read, then every answer goes on.

        Both are under way before the first result is waited for, so that two meshes work at once.
        """
        self._drop_cancelled()
        wanted = self._slots.free + 1 - len(self._ready)
        self._ready += self._prompts.read(self._queue, wanted)
        new = self._write()
        self._collect(new)
        ready = [ready for ready in self._ready if not ready.request.is_over]
        self._slots.fit(len(ready) + self._prompts.count + len(self._queue))
        self._ready = self._slots.seat(ready)

    def _drop_cancelled(self) -> None:
        """Frees the places of requests that were cancelled since the last turn."""
        if any(request.is_over for request in self._queue):
            self._queue = collections.deque(r for r in self._queue if not r.is_over)
        self._prompts.drop_cancelled()
        self._ready = [ready for ready in self._ready if not ready.request.is_over]
        self._slots.release_ended()

    def _write(self) -> jax.Array | None:
        """The next tokens of every slot, as soon as they are there."""
        requests = self._slots.requests
        left = [r.max_new_tokens - r.written if r is not None else 0 for r in requests]
        if not any(left):
            return None
        ended = np.equal(left, 0)
        filled = max(len(r.prompt) + r.written for r in self._slots.taken())
        if self._refresh is not None:
            return self._write_block(ended, self._seen(filled + self._refresh.interval))
        steps = np.minimum(left, self._steps(left)).astype(np.int32)
        return self._write_chunk(ended, steps, self._seen(filled + int(steps.max())))

    def _write_chunk(self, ended: np.ndarray, steps: np.ndarray, seen: int) -> jax.Array:
        """The next tokens of every answer, `steps` at most."""
        with jax.set_mesh(self._decode_mesh):
            self._slots.writing, new = write_chunk(
                self._writer,
                self._slots.writing,
                ended,
                self._slots.limits,
                self._stop_ids,
                steps,
                seen=seen,
            )
        return new

    def _write_block(self, ended: np.ndarray, seen: int) -> jax.Array:
        """The next block of every answer."""
        with jax.set_mesh(self._decode_mesh):
            self._slots.writing, new, drafted = write_block(
                self._refresher,
                self._writer,
                self._slots.writing,
                ended,
                self._slots.limits,
                self._stop_ids,
                **self._refresh.arguments(),
                seen=seen,
            )
        self.tally.count(~ended, new, drafted)
        return new

    def _seen(self, filled: int) -> int:
        """Slots that hold so many tokens, as one of few sizes."""
        return min(max(1 << (filled - 1).bit_length(), SMALLEST_SEEN), self._length)

    def _steps(self, left: Sequence[int]) -> int:
        """How many tokens an answer grows in this turn.

        While slots are empty, prompts must be read soon, and answers take turns with them token by
        token. While others wait for a slot, a turn ends with the first answer that can free one.
        """
        if not (self._waiting or self._ready):
            return CHUNK
        if self._slots.free:
            return 1
        return min(CHUNK, *(tokens for tokens in left if tokens))

    def _collect(self, new: jax.Array | None) -> None:
        """Hands out the tokens of this turn."""
        if new is not None:
            for request, row in zip(self._slots.requests, np.asarray(new), strict=True):
                if request is not None:
                    request.take(row[row != NO_TOKEN].tolist())
            self._slots.release_ended()
        for ready in self._ready:
            if ready.request.stage == "reading":
                ready.request.move_to("writing")
                if self._how.first_token == "full":
                    ready.request.take([int(np.asarray(ready.rows.token)[ready.index])])
