import numpy as np
import pytest

from overfill_jax.evaluation.bootstrap import interval


def share(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def test_covers_a_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        counts = np.stack([rng.random(100) < 0.3, np.ones(100)], axis=1).astype(float)
        low, high = interval(counts, share)
        inside += low <= 0.3 <= high
    assert 89 <= inside <= 100  # 95, give or take 2.7 standard deviations


def test_rows_are_drawn_whole():
    """Ten rows of a hundred equal answers are no thousand answers."""
    rows = np.array([[100.0, 100.0]] * 5 + [[0.0, 100.0]] * 5)
    low, high = interval(rows, share)
    assert low <= 0.2 and high >= 0.8


def test_is_the_same_each_time():
    counts = np.random.default_rng(0).random((50, 2)) + 1
    assert interval(counts, share) == interval(counts, share)


def test_equal_rows_leave_no_doubt():
    assert interval(np.full((7, 2), [3.0, 4.0]), share) == pytest.approx((0.75, 0.75))
