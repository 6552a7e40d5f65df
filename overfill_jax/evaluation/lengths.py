"""How long answers are: pruned decoders drift in it, which metrics hide."""

import dataclasses
from collections.abc import Sequence

import numpy as np

HEADER = ("tokens, mean", "median", "most", "no text", "cut off")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Of the answers of a system.

    Attributes:
      mean, median, most: tokens of an answer.
      empty: answers without text.
      cut: answers that were cut at their limit.
    """

    mean: float
    median: float
    most: int
    empty: int
    cut: int


def lengths_of(tokens: Sequence[int], answers: Sequence[str], ended: Sequence[str]) -> Lengths:
    """Sums up some answers, at least one.

    Args:
      tokens: how many each has.
      answers: their texts.
      ended: what ended each, as `Answer.reason`.
    """
    return Lengths(
        mean=float(np.mean(tokens)),
        median=float(np.median(tokens)),
        most=max(tokens),
        empty=sum(not answer.strip() for answer in answers),
        cut=sum(reason == "length" for reason in ended),
    )


def as_cells(lengths: Lengths) -> list[str]:
    """Of a table, under HEADER."""
    found = lengths
    return [
        f"{found.mean:.1f}", f"{found.median:.0f}", f"{found.most}", f"{found.empty}",
        f"{found.cut}",
    ]  # fmt: skip
