import itertools

import pytest

from overfill_jax.evaluation import plots
from overfill_jax.evaluation.systems import SYSTEMS


def test_labels_that_have_room_stay():
    assert plots.spread([0.1, 0.5, 0.9], 0.05, 0.0, 1.0) == [0.1, 0.5, 0.9]


def test_close_labels_are_centred_and_kept_inside():
    assert plots.spread([0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.45, 0.55])
    assert plots.spread([0.0, 0.0, 0.01], 0.1, 0.0, 1.0) == pytest.approx([0.0, 0.1, 0.2])
    assert plots.spread([1.0, 1.0], 0.1, 0.0, 1.0) == pytest.approx([0.9, 1.0])


def test_blocks_that_meet_join():
    heights = plots.spread([0.3, 0.31, 0.36, 0.8], 0.05, 0.0, 1.0)
    gaps = [b - a for a, b in itertools.pairwise(heights)]
    assert min(gaps) == pytest.approx(0.05)
    assert heights[3] == 0.8


def test_labels_pressed_to_the_edge_do_not_overlap_the_next():
    heights = plots.spread([0.0, 0.0, 0.0, 0.1], 0.05, 0.0, 1.0)
    gaps = [b - a for a, b in itertools.pairwise(heights)]
    assert min(gaps) >= 0.05 - 1e-9


def test_every_system_has_a_look_of_its_own():
    assert plots.STYLES.keys() == {system.name for system in SYSTEMS}
    assert len(set(plots.STYLES.values())) == len(SYSTEMS)
    assert len({marker for _, marker, _ in plots.STYLES.values()}) == len(SYSTEMS)
