"""The engine's second half: the slots in which answers are written side by side.

A step takes as long as all rows of its arrays do, whether anybody waits for them or not, so there
are no more of them than the answers need: one, four, sixteen, and so on up to all slots.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from overfill_jax.inference import engine_steps
from overfill_jax.inference.compiled import Pairing
from overfill_jax.inference.placement import place
from overfill_jax.inference.prompt_reader import Ready
from overfill_jax.inference.request import Request
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import parts

# From one number of rows to the next: each has programs of its own, and between them a step takes
# less than in proportion longer.
GROWTH = 4


class Slots:
    """Answers by slot, and the arrays of all of them on the mesh of decode.

    Attributes:
      requests: whose answer each row holds, None where it is free.
      writing: where the writer stands in every row.
      limits: of `sample`, for every row.
      sizes: the numbers of rows that there may be, the last of them all slots.
    """

    def __init__(
        self,
        reader: ModelConfig,
        writer: ModelConfig,
        how: Pairing,
        mesh: Mesh,
        slots: int,
        length: int,
    ):
        """All free.

        Args:
          reader, writer: their shapes.
          how: they are joined.
          mesh: of decode.
          slots: most answers at once.
          length: slots of each row's cache.
        """
        self._mesh = mesh
        self.sizes = row_counts(slots, parts("batch", mesh))
        rows = self.sizes[0]
        with jax.set_mesh(mesh):
            empty = engine_steps.empty_slots(reader, writer, how=how, rows=rows, slots=length)
        self.writing = place(empty, mesh)
        self.requests: list[Request | None] = [None] * rows
        self.limits = {name: np.full(rows, value) for name, value in GREEDY.limits().items()}

    @property
    def rows(self) -> int:
        """Of the arrays, at present."""
        return len(self.requests)

    @property
    def free(self) -> int:
        """How many more answers there is room for."""
        return self.sizes[-1] - len(self.taken())

    def taken(self) -> list[Request]:
        """The requests whose answers are being written."""
        return [request for request in self.requests if request is not None]

    def seat(self, waiting: Sequence[Ready]) -> Sequence[Ready]:
        """Gives prompts that have been read free slots, as far as there are any; the others."""
        count = min(len(waiting), self.free)
        while self.rows < len(self.taken()) + count:
            self._resize(self._neighbour(1))
        empty = [slot for slot, request in enumerate(self.requests) if request is None]
        for slot, ready in zip(empty, waiting[:count], strict=False):
            self.put(ready, slot)
            for name, value in ready.request.sampling.limits().items():
                self.limits[name][slot] = value
            self.requests[slot] = ready.request
        return waiting[count:]

    def put(self, ready: Ready, slot: int) -> None:
        """Writes into a slot what was read, whether it is to be answered or not."""
        with jax.set_mesh(self._mesh):
            self.writing = engine_steps.take_slot(
                self.writing, ready.rows, np.int32(ready.index), np.int32(slot)
            )

    def release_ended(self) -> None:
        """Frees the slots of requests that are over."""
        for slot, request in enumerate(self.requests):
            if request is not None and request.is_over:
                self._release(slot)

    def _release(self, slot: int) -> None:
        self.requests[slot] = None
        # A row that nobody reads draws no tokens, which would cost all of them a sort.
        for name, value in GREEDY.limits().items():
            self.limits[name][slot] = value

    def shrink(self) -> None:
        """As few rows as hold the answers: at most one change for each answer that ends."""
        while (smaller := self._neighbour(-1)) and len(self.taken()) <= smaller:
            self._resize(smaller)

    def every_size(self) -> Iterator[int]:
        """Yields numbers of rows from this one up, each while there are so many; then shrinks."""
        yield self.rows
        while larger := self._neighbour(1):
            self._resize(larger)
            yield larger
        self.shrink()

    def _neighbour(self, offset: int) -> int:
        """The next number of rows, 0 where there is none."""
        index = self.sizes.index(self.rows) + offset
        return self.sizes[index] if 0 <= index < len(self.sizes) else 0

    def _resize(self, rows: int) -> None:
        """So many rows, of which the first are those that are taken."""
        taken = [slot for slot, request in enumerate(self.requests) if request is not None]
        # Of the free ones it does not matter what they hold.
        order = np.array(taken + [0] * (rows - len(taken)), np.int32)
        with jax.set_mesh(self._mesh):
            self.writing = engine_steps.rearrange(self.writing, order)
        self.limits = {name: values[order] for name, values in self.limits.items()}
        self.requests = [*self.taken(), *[None] * (rows - len(taken))]
        for slot in range(len(taken), rows):
            self._release(slot)


def row_counts(slots: int, parts: int) -> tuple[int, ...]:
    """The numbers of rows that there are programs for, the last of them all slots.

    Args:
      slots: most rows.
      parts: in how many the mesh splits rows; it divides all smaller numbers.
    """
    found, rows = [], parts
    while rows < slots:
        found.append(rows)
        rows *= GROWTH
    return (*found, slots)
