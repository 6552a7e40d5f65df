"""The engine's second half: the slots in which answers are written side by side.

A step takes as long as all rows of its arrays do, whether anybody waits for them or not, so there
are no more of them than the answers need: one, four, sixteen, and so on up to all slots.
"""

from collections.abc import Iterator

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
        """All free, and all there at first: memory that does not suffice for them shows now.

        Args:
          reader, writer: their shapes.
          how: they are joined.
          mesh: of decode.
          slots: most answers at once.
          length: slots of each row's cache.
        """
        self._mesh = mesh
        self.sizes = row_counts(slots, parts("batch", mesh))
        with jax.set_mesh(mesh):
            empty = engine_steps.empty_slots(reader, writer, how=how, rows=slots, slots=length)
        self.writing = place(empty, mesh)
        self.requests: list[Request | None] = [None] * slots
        self.limits = {name: np.full(slots, value) for name, value in GREEDY.limits().items()}
        self.fit(0)

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

    def fit(self, coming: int) -> None:
        """As few rows as hold the answers and those that are coming, as far as there are any."""
        wanted = min(len(self.taken()) + coming, self.sizes[-1])
        goal = min(rows for rows in self.sizes if rows >= wanted)
        # By way of those between, so that few programs suffice.
        steps = [rows for rows in self.sizes if self.rows < rows <= goal]
        steps += [rows for rows in reversed(self.sizes) if goal <= rows < self.rows]
        for rows in steps:
            self._resize(rows)

    def seat(self, waiting: list[Ready]) -> list[Ready]:
        """Gives prompts that have been read free rows, as far as there are any; the others."""
        empty = [slot for slot, request in enumerate(self.requests) if request is None]
        for slot, ready in zip(empty, waiting, strict=False):
            self.put(ready, slot)
            for name, value in ready.request.sampling.limits().items():
                self.limits[name][slot] = value
            self.requests[slot] = ready.request
        return waiting[len(empty) :]

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

    def every_size(self) -> Iterator[None]:
        """Yields at each number of rows, while there is no answer; then they are few again."""
        for rows in self.sizes:
            self.fit(rows)
            yield
        self.fit(0)

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


def row_counts(slots: int, smallest: int) -> tuple[int, ...]:
    """The numbers of rows that there are programs for, the last of them all slots.

    Args:
      slots: most rows.
      smallest: number, in as many parts the mesh splits rows; it divides all but the last.
    """
    found, rows = [], smallest
    while rows < slots:
        found.append(rows)
        rows *= GROWTH
    return (*found, slots)
