"""Owns where amid an answer the full model hands over once more, as refresh does in use.

A block of an answer is what a decoder writes behind one handoff. Without any amid it, an answer is
one block.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from overfill_jax.data.batches import Batch


def cut_into_blocks(batch: Batch, keys: Sequence[tuple[int, ...]]) -> Batch:
    """The same rows with a handoff before every block of an answer.

    The blocks of an answer are equally long, as those between refreshes are, apart from the last
    and the first, which is as long as chance has it: answers are cut at every place. The length is
    drawn for each answer, between 2 tokens and twice the answer, which leaves it whole: short ones
    more often, since an answer has the more handoffs to learn the shorter its blocks are.

    Args:
      batch: with answers in one block.
      keys: of the random numbers of each row.
    """
    starts = [
        _starts(segments, begin, np.random.default_rng(key))
        for segments, begin, key in zip(
            batch.answer_segments, batch.answer_starts, keys, strict=True
        )
    ]
    return dataclasses.replace(batch, answer_starts=np.stack(starts))


def _starts(
    segments: Int[np.ndarray, "R"], begin: Int[np.ndarray, "R"], random: np.random.Generator
) -> Int[np.ndarray, "R"]:
    """The slot where the block of every slot begins."""
    sizes = np.maximum(np.bincount(segments), 1)  # of padding, which comes first, and the answers
    shares = random.random((2, len(sizes)))
    lengths = (2 * sizes ** shares[0] ** 2).astype(np.int32)
    firsts = np.where(lengths < sizes, 1 + (lengths * shares[1]).astype(np.int32), lengths)
    places = np.arange(len(segments), dtype=np.int32) - begin
    inside = (places - firsts[segments]) % lengths[segments]
    return np.where(segments > 0, begin + np.maximum(places - inside, 0), 0)
