"""Confidence intervals of metrics that are no mean, by resampling rows (Koehn 2004, for BLEU)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Num

RESAMPLES = 1000
_SEED = 0  # the same rows give the same interval
_TAILS = (0.025, 0.975)


def interval(
    counts: Num[np.ndarray, "rows K"], score: Callable[[Num[np.ndarray, "K"]], float]
) -> tuple[float, float]:
    """The 95 % percentile interval of `score(counts.sum(axis=0))` over as many rows, drawn anew.

    Args:
      counts: what each row adds.
      score: the metric, from the sums of these.
    """
    rng = np.random.default_rng(_SEED)
    rows = len(counts)
    scores = [
        score(rng.multinomial(rows, np.full(rows, 1 / rows)) @ counts) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(scores, _TAILS)
    return float(low), float(high)
