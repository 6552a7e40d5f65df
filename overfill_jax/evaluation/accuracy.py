"""Accuracy from verdicts: shares of each family with their confidence intervals, and their mean."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

Z = 1.959964  # two-sided 95 %


@dataclasses.dataclass(frozen=True)
class Proportion:
    """A share between 0 and 1 with its 95 % confidence interval."""

    share: float
    low: float
    high: float


def wilson(correct: int, rows: int) -> Proportion:
    """The share of correct rows with Wilson's score interval, which holds at 0 and 1 as well."""
    share = correct / rows
    shrink = 1 + Z**2 / rows
    centre = (share + Z**2 / (2 * rows)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    return Proportion(share, max(0.0, centre - half), min(1.0, centre + half))


def accuracy_by_family(families: Sequence[str], correct: Sequence[bool]) -> dict[str, Proportion]:
    """The accuracy of each family, in the order in which the families first appear."""
    verdicts: dict[str, list[bool]] = {}
    for family, verdict in zip(families, correct, strict=True):
        verdicts.setdefault(family, []).append(verdict)
    return {family: wilson(sum(found), len(found)) for family, found in verdicts.items()}


def mean_accuracy(families: dict[str, Proportion]) -> Proportion:
    """The mean over the families, each counting the same however many rows it has.

    The interval joins the families' own (Newcombe's square-and-add): their one-sided errors are
    independent, so the squares of these add up.
    """
    found = families.values()
    share = sum(f.share for f in found) / len(found)
    below = math.sqrt(sum((f.share - f.low) ** 2 for f in found)) / len(found)
    above = math.sqrt(sum((f.high - f.share) ** 2 for f in found)) / len(found)
    return Proportion(share, share - below, share + above)


def accuracy_by_length(
    references: Sequence[str], correct: Sequence[bool]
) -> list[tuple[float, float]]:
    """Mean words of the reference and share of right answers, of each quarter of the rows.

    Rows of one length are divided in the order in which they are given.
    """
    words = [len(reference.split()) for reference in references]
    pairs = zip(words, correct, strict=True)
    # By length alone: sorted by verdict as well, wrong answers would make the shorter quarter.
    found = np.array(sorted(pairs, key=lambda pair: pair[0]), float)
    quarters = [part.mean(axis=0) for part in np.array_split(found, 4) if len(part)]
    return [(float(length), float(share)) for length, share in quarters]


def relative_gain(system: Mapping[str, float], base: Mapping[str, float]) -> float | None:
    """The mean over the families of how much better a system is than `base`, as share of `base`.

    The paper's form (arXiv 2508.08446). None where a family of `base` is at 0.
    """
    if not all(base.values()):
        return None
    return sum(system[family] / base[family] - 1 for family in base) / len(base)


def gap_closed(system: float, lower: float, upper: float) -> float | None:
    """How much of the way from `lower` to `upper` a system's accuracy has come; None if no way."""
    return (system - lower) / (upper - lower) if upper > lower else None
