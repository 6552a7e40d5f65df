"""Owns the batch: examples laid out in rows of two streams, one of prompts and one of answers.

A row holds one example or several, one behind the other; segments tell them apart. Nothing here
decides which examples share a row (see `packing.py`) or a batch (see `order.py`).
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from overfill_jax.data.instructions import Example
from overfill_jax.data.packing import longest_shape
from overfill_jax.data.tokenizers import Ids

# Prompt ids, answer ids, and the index of the example.
Piece = tuple[Ids, Ids, int]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts and answers in two streams of slots; one example a row is just one segment a row.

    Attributes:
      prompt: tokens, padded with 0.
      prompt_segments: the example within the row, from 1; 0 in padding.
      prompt_positions: of the token in its own example, from 0.
      answer: tokens of the answers, which are what is to be predicted; padded with 0.
      answer_segments: as in the prompts.
      answer_positions: of the token in its own example: they go on from those of the prompt.
      prompt_end: slot in `prompt` of the last prompt token of the example that an answer slot
        belongs to; 0 in padding.
      examples: index of the example that an answer slot belongs to; -1 in padding.
      answer_starts: the slot from which on a decoder has written when it comes to an answer slot,
        which is where its answer begins, or a block of it (see `handoffs.py`); 0 in padding.
    """

    prompt: Int[Array | np.ndarray, "B P"]
    prompt_segments: Int[Array | np.ndarray, "B P"]
    prompt_positions: Int[Array | np.ndarray, "B P"]
    answer: Int[Array | np.ndarray, "B R"]
    answer_segments: Int[Array | np.ndarray, "B R"]
    answer_positions: Int[Array | np.ndarray, "B R"]
    prompt_end: Int[Array | np.ndarray, "B R"]
    examples: Int[Array | np.ndarray, "B R"]
    answer_starts: Int[Array | np.ndarray, "B R"]


def lay_out(rows: Sequence[Sequence[Piece]], prompt_slots: int, answer_slots: int) -> Batch:
    """Lays out rows of examples, each of at least one prompt token; a row may be empty.

    The examples of a row have to fit; see `packing.py`.
    """
    prompts = np.zeros((3, len(rows), prompt_slots), np.int32)
    answers = np.zeros((6, len(rows), answer_slots), np.int32)
    answers[4] = -1
    steps = np.arange(prompt_slots + answer_slots, dtype=np.int32)
    for row, pieces in enumerate(rows):
        p = r = 0  # where the next prompt and the next answer begin
        for segment, (prompt, answer, example) in enumerate(pieces, 1):
            length, end = len(prompt), len(prompt) + len(answer)
            slots = slice(p, p + length)
            prompts[0, row, slots] = prompt
            prompts[1, row, slots] = segment
            prompts[2, row, slots] = steps[:length]
            p += length
            slots = slice(r, r + len(answer))
            answers[0, row, slots] = answer
            answers[1, row, slots] = segment
            answers[2, row, slots] = steps[length:end]
            answers[3, row, slots] = p - 1
            answers[4, row, slots] = example
            answers[5, row, slots] = r
            r += len(answer)
    return Batch(*prompts, *answers)


def evaluation_batches(examples: Sequence[Example], batch_size: int) -> list[Batch]:
    """All examples in order, one a row, in batches of one shape; empty rows fill the last."""
    prompts = np.array([len(one.prompt) for one in examples])
    answers = np.array([len(one.answer) for one in examples])
    shape = longest_shape(prompts, answers, cutoff=False)
    rows = [[(one.prompt, one.answer, index)] for index, one in enumerate(examples)]
    rows += [[]] * (-len(rows) % batch_size)
    return [
        lay_out(rows[i : i + batch_size], shape.prompt_slots, shape.answer_slots)
        for i in range(0, len(rows), batch_size)
    ]
