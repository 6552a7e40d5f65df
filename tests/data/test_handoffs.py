"""Where answers are cut into blocks."""

from collections import Counter

import jax
import numpy as np
import pytest

from overfill_jax.data.batches import lay_out
from overfill_jax.data.handoffs import cut_into_blocks
from tests.data.examples import make_mixture, pieces_of
from tests.data.test_loader import equal, loader

ROWS = 4


def lengths_of(batch):
    """The lengths of the blocks of every answer, which lie in it one behind the other."""
    found = []
    for row in range(len(batch.answer)):
        segments, starts = batch.answer_segments[row], batch.answer_starts[row]
        assert not starts[segments == 0].any()
        for segment in range(1, int(segments.max(initial=0)) + 1):
            slots = np.flatnonzero(segments == segment)
            begun = np.unique(starts[slots])
            assert begun[0] == slots[0]
            np.testing.assert_array_equal(
                starts[slots], begun[np.searchsorted(begun, slots, side="right") - 1]
            )
            found.append(np.diff([*begun, slots[-1] + 1]).tolist())
    return found


def test_blocks_are_equally_long_but_for_the_first_and_the_last():
    batch = loader(make_mixture(60), handoffs=True).rows(0, 0, ROWS)
    for row in range(ROWS):
        pieces_of(batch, row)  # all else is as without
    found = lengths_of(batch)
    assert max(map(len, found)) > 3
    for lengths in found:
        inner = set(lengths[1:-1])
        assert len(inner) <= 1
        for length in inner:
            assert length >= 2 and max(lengths) == length


def test_every_interval_has_its_share_and_short_ones_more():
    rows = [[(np.zeros(1), np.arange(32), 0)]] * 4000
    batch = cut_into_blocks(lay_out(rows, 1, 32), [(0, i) for i in range(4000)])
    found = lengths_of(batch)
    # Five octaves from 2 to 64, by the square of a uniform share; those with two inner blocks show
    # their length.
    octaves = Counter(int(np.log2(lengths[1])) for lengths in found if len(lengths) > 2)
    assert octaves[1] == pytest.approx(4000 * (1 / 5) ** 0.5, abs=150)
    assert octaves[2] == pytest.approx(4000 * ((2 / 5) ** 0.5 - (1 / 5) ** 0.5), abs=120)
    whole = sum(len(lengths) == 1 for lengths in found)
    assert whole == pytest.approx(4000 * (1 - (4 / 5) ** 0.5), abs=100)
    firsts = Counter(lengths[0] for lengths in found if len(lengths) > 2 and lengths[1] == 3)
    assert sorted(firsts) == [1, 2, 3]
    assert max(firsts.values()) < 1.5 * min(firsts.values())


def test_blocks_follow_from_the_step_alone_and_change_from_epoch_to_epoch():
    mixture = make_mixture(40)
    one = loader(mixture, packed=False, handoffs=True, seed=7)
    again = loader(mixture, packed=False, handoffs=True, seed=7)
    walked = [one.rows(step, 0, ROWS) for step in range(12)]
    assert equal(again.rows(11, 0, ROWS), walked[11])  # resumed
    parts = [again.rows(11, row, row + 1) for row in range(ROWS)]  # by other processes
    assert equal(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), walked[11])
    plain = loader(mixture, packed=False, seed=7).rows(11, 0, ROWS)
    assert not np.array_equal(plain.answer_starts, walked[11].answer_starts)
    by_example = {}
    for step in range(one.steps(3)):
        batch = one.rows(step, 0, ROWS)
        for row in range(ROWS):
            starts = batch.answer_starts[row].tolist()
            by_example.setdefault(batch.examples[row, 0], []).append(starts)
    assert sum(first != second for first, second, *_ in by_example.values()) > 20
