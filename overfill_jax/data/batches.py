"""Owns batches of fixed shape: which examples a training step sees, and how they are padded.

Everything is a pure function of (examples, seed, step), so a resumed run repeats and skips nothing.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from overfill_jax.data.instructions import Example
from overfill_jax.data.tokenizers import Ids
from overfill_jax.errors import InputError

SLOT_MULTIPLE = 8  # prompt and answer slots are whole multiples of it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts and answers, both right-padded with 0; an empty row has an answer of length 0."""

    prompt: Int[Array | np.ndarray, "B P"]
    prompt_lengths: Int[Array | np.ndarray, "B"]
    answer: Int[Array | np.ndarray, "B R"]
    answer_lengths: Int[Array | np.ndarray, "B"]
    rows: Int[Array | np.ndarray, "B"]  # index of the example, -1 in an empty row


class Batches:
    """The endless sequence of training batches, indexed by step.

    Each epoch is a permutation of its own, and batches run across the border of two epochs, so
    every example is seen exactly once an epoch. All batches have the same shape.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int, cutoff: bool):
        """Prepares batches of `batch_size`.

        Args:
          examples: what to train on.
          batch_size: rows of a batch.
          seed: chooses the order and the cutoffs.
          cutoff: move a random first part of each answer into its prompt (the reference's
            `random_data_cutoff`), so the decoder also learns to start amid an answer.

        Raises:
          InputError: there are fewer examples than rows in a batch.
        """
        if len(examples) < batch_size:
            raise InputError(
                f"training data: found {len(examples)} examples, "
                f"expected at least one batch of {batch_size}"
            )
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._cutoff = cutoff
        moved = [max(0, len(one.answer) - 2) if cutoff else 0 for one in examples]
        longest = max(len(one.prompt) + more for one, more in zip(examples, moved, strict=True))
        self._prompt_slots = _slots(longest)
        self._answer_slots = _slots(max(len(one.answer) for one in examples))
        # A batch touches two epochs at most.
        self._order = functools.lru_cache(maxsize=2)(self._new_order)

    def at(self, step: int) -> Batch:
        """Returns the batch of `step`, counted from 0."""
        rows, pairs = [], []
        for position in range(step * self._batch_size, (step + 1) * self._batch_size):
            epoch, place = divmod(position, len(self._examples))
            row = int(self._order(epoch)[place])
            rows.append(row)
            pairs.append(self._split(epoch, row))
        return _stack(pairs, rows, self._prompt_slots, self._answer_slots)

    def _new_order(self, epoch: int) -> Int[np.ndarray, "N"]:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._examples))

    def _split(self, epoch: int, row: int) -> tuple[Ids, Ids]:
        one = self._examples[row]
        if not self._cutoff or len(one.answer) < 3:
            return one.prompt, one.answer
        # Two tokens stay: the full model gives the first, the decoder must learn at least one.
        # 1 + row, because numpy takes (seed, epoch, 0) for (seed, epoch).
        random = np.random.default_rng((self._seed, epoch, 1 + row))
        moved = int(random.integers(len(one.answer) - 1))
        return np.concatenate([one.prompt, one.answer[:moved]]), one.answer[moved:]


def evaluation_batches(examples: Sequence[Example], batch_size: int) -> list[Batch]:
    """Returns all examples in order in batches of one shape; empty rows fill the last one."""
    prompt_slots = _slots(max(len(one.prompt) for one in examples))
    answer_slots = _slots(max(len(one.answer) for one in examples))
    batches = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        empty = batch_size - len(part)
        # An empty row still has one prompt token, because prefill reads out a last one.
        pairs = [(one.prompt, one.answer) for one in part] + empty * [([0], [])]
        rows = [*range(start, start + len(part)), *empty * [-1]]
        batches.append(_stack(pairs, rows, prompt_slots, answer_slots))
    return batches


def _slots(length: int) -> int:
    return -(-length // SLOT_MULTIPLE) * SLOT_MULTIPLE


def _stack(
    pairs: Sequence[tuple[Ids, Ids]], rows: Sequence[int], prompt_slots: int, answer_slots: int
) -> Batch:
    prompts, answers = zip(*pairs, strict=True)
    prompt, prompt_lengths = _pad(prompts, prompt_slots)
    answer, answer_lengths = _pad(answers, answer_slots)
    return Batch(prompt, prompt_lengths, answer, answer_lengths, np.asarray(rows, np.int32))


def _pad(
    sequences: Sequence[Ids], slots: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B"]]:
    padded = np.zeros((len(sequences), slots), np.int32)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = ids
    return padded, np.asarray([len(ids) for ids in sequences], np.int32)
