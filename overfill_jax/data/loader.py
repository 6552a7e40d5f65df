"""Owns the batches of a run: any rows of any step, and a pipeline that prepares them ahead."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from absl import logging

from overfill_jax.data.batches import Batch, lay_out
from overfill_jax.data.handoffs import cut_into_blocks
from overfill_jax.data.mixture import Mixture
from overfill_jax.data.order import HANDOFFS, Epoch, Order, arrange, usable
from overfill_jax.data.packing import RowShape
from overfill_jax.errors import InputError

THREADS = 2
AHEAD = 4  # batches that wait for the device

T = TypeVar("T")


class TrainingLoader:
    """Batches of an endless, shuffled sequence of rows, which run across the ends of epochs."""

    def __init__(
        self,
        mixture: Mixture,
        shape: RowShape,
        batch_size: int,
        seed: int,
        cutoff: bool,
        handoffs: bool,
    ):
        """Prepares the first epoch.

        Args:
          mixture, shape, seed, cutoff: as those of `Order`.
          batch_size: rows.
          handoffs: cut answers into blocks.

        Raises:
          InputError: there are fewer rows than one batch takes.
        """
        self.shape = shape
        self._mixture = mixture
        self.batch_size = batch_size
        self._seed = seed
        self._handoffs = handoffs
        self._order = Order(mixture, shape, seed, cutoff)
        rows = self._order.first_row(1)
        if rows < batch_size:
            raise InputError(
                f"training data: found {rows} rows (of {len(mixture)} examples), expected at "
                f"least one batch of {batch_size}"
            )
        self.filling = filling(mixture, self._order.epoch(0), shape)
        logging.info("training data: %s", self.filling)

    @property
    def digest(self) -> str:
        """Of the examples."""
        return self._mixture.digest

    def steps(self, epochs: int) -> int:
        """How many batches it takes to go through `epochs` epochs; the last may reach beyond."""
        return -(-self._order.first_row(epochs) // self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows from `start` to `stop` of the batch of `step`, counted from 0."""
        first = step * self.batch_size
        places = [self._order.find(first + row) for row in range(start, stop)]
        rows = [self._order.epoch(epoch).row(row) for epoch, row in places]
        batch = _lay_out(self._mixture, rows, self.shape)
        if not self._handoffs:
            return batch
        return cut_into_blocks(
            batch, [(self._seed, HANDOFFS, first + row) for row in range(start, stop)]
        )


class ValidationLoader:
    """All examples once, in their order; empty rows fill up the last batch.

    With `handoffs` answers are cut into the same blocks each time.
    """

    def __init__(self, mixture: Mixture, shape: RowShape, batch_size: int, handoffs: bool):
        self.shape = shape
        self._mixture = mixture
        self.batch_size = batch_size
        self._handoffs = handoffs
        examples = np.concatenate(usable(mixture, shape))
        self._epoch = arrange(mixture, examples, mixture.prompts[examples], shape)
        self.filling = filling(mixture, self._epoch, shape)
        logging.info("validation data: %s", self.filling)

    @property
    def digest(self) -> str:
        """Of the examples."""
        return self._mixture.digest

    @property
    def steps(self) -> int:
        """Number of batches."""
        return -(-len(self._epoch) // self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows from `start` to `stop` of the batch of `step`, counted from 0."""
        first = step * self.batch_size
        numbers = range(first + start, first + stop)
        rows = [self._epoch.row(i) if i < len(self._epoch) else [] for i in numbers]
        batch = _lay_out(self._mixture, rows, self.shape)
        return cut_into_blocks(batch, [(HANDOFFS, i) for i in numbers]) if self._handoffs else batch


@dataclasses.dataclass(frozen=True)
class Filling:
    """How well rows are filled.

    Attributes:
      examples, rows: of an epoch.
      shape: of a row.
      used: share of the slots that hold a token.
      padded: what that share would be with one example a row and the slots of the longest.
    """

    examples: int
    rows: int
    shape: RowShape
    used: float
    padded: float

    def __str__(self) -> str:
        compared = f" (padded, one example a row: {self.padded:.1%})" if self.shape.packed else ""
        return (
            f"{self.examples} examples in {self.rows} rows of {self.shape.prompt_slots} prompt and "
            f"{self.shape.answer_slots} answer slots, {self.used:.1%} of them used{compared}"
        )


def filling(mixture: Mixture, epoch: Epoch, shape: RowShape) -> Filling:
    """How well the rows of an epoch are filled."""
    lengths = mixture.prompts[epoch.examples] + mixture.answers[epoch.examples]
    answers = lengths - epoch.prompts
    return Filling(
        examples=len(lengths),
        rows=len(epoch),
        shape=shape,
        used=float(lengths.sum() / (len(epoch) * (shape.prompt_slots + shape.answer_slots))),
        padded=float(lengths.mean() / (epoch.prompts.max() + answers.max())),
    )


def read_ahead(load: Callable[[int], T], first: int, steps: int) -> Iterator[T]:
    """Yields `load(step)` for the steps from `first` to before `steps`, made ahead in threads."""
    import grain  # takes a second, and only training needs it

    pipeline = grain.MapDataset.range(steps).map(load)
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
    batches = iter(pipeline.to_iter_dataset(options))
    batches.set_state({"next_index": first})
    return batches


def _lay_out(mixture: Mixture, rows: list[list[tuple[int, int]]], shape: RowShape) -> Batch:
    pieces = []
    for row in rows:
        examples = ((mixture.ids(example), prompt, example) for example, prompt in row)
        pieces.append([(ids[:prompt], ids[prompt:], example) for ids, prompt, example in examples])
    return lay_out(pieces, shape.prompt_slots, shape.answer_slots)
