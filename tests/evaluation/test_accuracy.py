import pytest

from overfill_jax.evaluation.accuracy import (
    accuracy_by_family,
    accuracy_by_length,
    gap_closed,
    mean_accuracy,
    relative_gain,
    wilson,
)


def test_wilson_agrees_with_published_values():
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", method 3.
    for correct, rows, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = wilson(correct, rows)
        assert found.share == correct / rows
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_wilson_is_the_same_for_errors_as_for_successes():
    one, other = wilson(3, 17), wilson(14, 17)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    assert wilson(20, 20).high == 1.0


def test_families_keep_their_order_and_count_their_own_rows():
    found = accuracy_by_family(["b", "a", "b", "b"], [True, False, False, True])
    assert list(found) == ["b", "a"]
    assert found == {"b": wilson(2, 3), "a": wilson(0, 1)}


def test_mean_counts_families_alike_and_joins_their_intervals():
    families = {"large": wilson(900, 1000), "small": wilson(1, 10)}
    mean = mean_accuracy(families)
    assert mean.share == pytest.approx(0.5)
    small = families["small"]
    # The large family is nearly certain, so what is left is half of the small one's error.
    assert mean.high - mean.share == pytest.approx((small.high - small.share) / 2, rel=0.01)
    assert mean.low < mean.share < mean.high


def test_mean_of_one_family_is_that_family():
    mean = mean_accuracy({"": wilson(3, 7)})
    assert (mean.share, mean.low, mean.high) == pytest.approx(
        (wilson(3, 7).share, wilson(3, 7).low, wilson(3, 7).high)
    )


def test_gap_closed():
    assert gap_closed(0.9, lower=0.5, upper=1.0) == pytest.approx(0.8)
    assert gap_closed(0.4, lower=0.5, upper=1.0) == pytest.approx(-0.2)
    assert gap_closed(0.9, lower=1.0, upper=1.0) is None


def test_relative_gain_is_the_mean_of_the_families():
    ours = {"a": 0.9, "b": 0.2}
    assert relative_gain(ours, {"a": 0.6, "b": 0.1}) == pytest.approx((0.5 + 1.0) / 2)
    assert relative_gain(ours, {"a": 0.9, "b": 0.4}) == pytest.approx((0 - 0.5) / 2)
    assert relative_gain(ours, {"a": 0.6, "b": 0.0}) is None


def test_quarters_by_length_of_the_reference():
    references = ["w " * words for words in (8, 1, 7, 2, 6, 3, 5, 4)]
    correct = [len(reference.split()) < 6 for reference in references]
    assert accuracy_by_length(references, correct) == [(1.5, 1.0), (3.5, 1.0), (5.5, 0.5), (7.5, 0)]
    assert accuracy_by_length(["a", "b c"], [True, False]) == [(1.0, 1.0), (2.0, 0.0)]


def test_verdicts_do_not_sort_rows_of_one_length():
    assert accuracy_by_length(["a"] * 8, [True, False] * 4) == [(1.0, 0.5)] * 4
    assert accuracy_by_length(["a", "b c", "d e"], [True, True, False])[1:] == [(2.0, 1), (2.0, 0)]
