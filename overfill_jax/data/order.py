"""Owns which examples an epoch holds, in which order and rows, and cut off where.

All of it is a pure function of (examples, shape of the rows, seed, epoch), so that a resumed run
repeats and skips nothing, on any number of processes.
"""

import bisect
import dataclasses
import functools
import threading
from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from overfill_jax.data.instructions import count_lines
from overfill_jax.data.mixture import Mixture
from overfill_jax.data.packing import RowShape, pack
from overfill_jax.data.sources import passes
from overfill_jax.data.store import Tokens
from overfill_jax.errors import InputError

# What a random number is for, so that no two uses share their numbers.
TAKE, CUT, SHUFFLE, ROWS, HANDOFFS = range(1, 6)

ANSWERS_OF_A_LINE = 2**20  # more than any conversation has

EPOCHS_KEPT = 3  # a batch touches two as a rule, and reading ahead may touch the next


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Rows of examples: row r holds those from `bounds[r]` to `bounds[r + 1]`.

    Attributes:
      examples: indices, row after row.
      prompts: how much of each example is prompt, the part of the answer that was moved included.
      bounds: where the rows begin, and the end.
    """

    examples: Int[np.ndarray, "K"]
    prompts: Int[np.ndarray, "K"]
    bounds: Int[np.ndarray, "M_and_1"]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def row(self, row: int) -> list[tuple[int, int]]:
        """Index and prompt length of the examples of a row."""
        part = slice(self.bounds[row], self.bounds[row + 1])
        return list(zip(self.examples[part].tolist(), self.prompts[part].tolist(), strict=True))


class Order:
    """The endless sequence of rows: epoch after epoch, each shuffled, then packed.

    Every epoch holds every example as often as the weight of its source says, once as a rule.
    """

    def __init__(self, mixture: Mixture, shape: RowShape, seed: int, cutoff: bool):
        """Prepares the order.

        Args:
          mixture: the examples; those that fit no row are left out, and reported.
          shape: of the rows.
          seed: chooses everything that is random.
          cutoff: move a random first part of each answer into its prompt (the reference's
            `random_data_cutoff`), so the decoder also learns to start amid an answer.
        """
        self._mixture = mixture
        self._shape = shape
        self._seed = seed
        self._cutoff = cutoff
        self._usable = usable(mixture, shape)
        self.epoch = functools.lru_cache(maxsize=EPOCHS_KEPT)(self._new_epoch)
        self._starts = [0]  # number of the first row of each epoch, as far as is known
        self._counting = threading.Lock()

    def find(self, row: int) -> tuple[int, int]:
        """The epoch of a row of the sequence, and the row in it."""
        with self._counting:
            while self._starts[-1] <= row:
                self._count_one_more()
            epoch = bisect.bisect_right(self._starts, row) - 1
            return epoch, row - self._starts[epoch]

    def first_row(self, epoch: int) -> int:
        """Number of the first row of an epoch, which is how many all the epochs before have."""
        with self._counting:
            while len(self._starts) <= epoch:
                self._count_one_more()
            return self._starts[epoch]

    def _count_one_more(self) -> None:
        self._starts.append(self._starts[-1] + len(self.epoch(len(self._starts) - 1)))

    def _new_epoch(self, number: int) -> Epoch:
        examples, prompts = self._take(number)
        shuffled = self._random(SHUFFLE, number).permutation(len(examples))
        epoch = arrange(self._mixture, examples[shuffled], prompts[shuffled], self._shape)
        # Packing puts rows of large examples first.
        return _permuted(epoch, self._random(ROWS, number).permutation(len(epoch)))

    def _take(self, epoch: int) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "K"]]:
        """The examples of an epoch, source by source, and how much of each is prompt."""
        examples, cuts = [np.zeros(0, np.int64)], [np.zeros(0)]
        parts = zip(self._mixture.parts, self._mixture.starts, self._usable, strict=False)
        for index, (part, start, usable) in enumerate(parts):
            numbers = identify(part.tokens)
            key = (self._seed, TAKE, index)
            for number, taken in passes(len(usable), part.weight, epoch, key):
                examples.append(usable[taken])
                cuts.append(draw((self._seed, CUT, index, number), numbers[usable[taken] - start]))
        examples, cuts = np.concatenate(examples), np.concatenate(cuts)
        prompts = self._mixture.prompts[examples]
        if self._cutoff:
            # Two tokens stay: the full model gives the first, the decoder must learn one at least.
            most = np.maximum(self._mixture.answers[examples] - 1, 1)
            moved = (cuts * most).astype(np.int64)
            prompts = prompts + np.minimum(moved, self._shape.prompt_slots - prompts)
        return examples, prompts

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, *key))


def identify(tokens: Tokens) -> Int[np.ndarray, "N"]:
    """A number of each example that follows from its place in the source alone.

    That is its line, and which of the line's answers it is. No other line being rejected, and no
    other example being too long for a row, changes it.
    """
    first = np.searchsorted(tokens.rows, tokens.rows)  # of the examples of the same line
    return tokens.rows * ANSWERS_OF_A_LINE + np.arange(len(tokens)) - first


def draw(key: tuple[int, ...], numbers: Int[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """Uniform in [0, 1), each a function of the key and its own number.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): its state is a counter, so that any of its
    numbers can be had without those before it.
    """
    start = np.random.SeedSequence(key).generate_state(1, np.uint64)
    state = start + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53


def usable(mixture: Mixture, shape: RowShape) -> list[Int[np.ndarray, "K"]]:
    """Indices of the examples of each part that fit a row; the others are reported by line.

    Raises:
      InputError: none is left of a part.
    """
    fits = shape.fits(mixture.prompts, mixture.answers)
    found = []
    for part, start in zip(mixture.parts, mixture.starts, strict=False):
        inside = fits[start : start + len(part.tokens)]
        if not inside.all():
            lines = count_lines(part.tokens.rows[~inside].tolist())
            message = (
                f"{part.name}: {len(inside) - inside.sum()} examples fit no row of "
                f"{shape.prompt_slots} prompt and {shape.answer_slots} answer slots ({lines})"
            )
            if not inside.any():
                raise InputError(f"{message}, and there is no other")
            logging.warning("%s; they are left out", message)
        found.append(start + np.flatnonzero(inside))
    return found


def arrange(
    mixture: Mixture,
    examples: Int[np.ndarray, "K"],
    prompts: Int[np.ndarray, "K"],
    shape: RowShape,
) -> Epoch:
    """Packs examples, of each of which the first `prompts` ids are its prompt."""
    lengths = mixture.prompts[examples] + mixture.answers[examples]
    rows = pack(prompts, lengths - prompts, shape)
    by_row = np.argsort(rows, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(rows))])
    return Epoch(examples[by_row], prompts[by_row], bounds)


def _permuted(epoch: Epoch, order: Sequence[int] | np.ndarray) -> Epoch:
    lengths = np.diff(epoch.bounds)[order]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    inside = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    old = np.repeat(epoch.bounds[:-1][order], lengths) + inside
    return Epoch(epoch.examples[old], epoch.prompts[old], bounds)
