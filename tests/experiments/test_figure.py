"""The figure says what is missing from it, and stands its points where they belong."""

import pytest

from overfill_jax.experiments import figure
from overfill_jax.experiments.measures import MEASURES, Point


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    found = []
    monkeypatch.setattr(figure, "save", lambda one, path: found.append(one))
    return found


def spot(*values):
    return [Point("", value) for value in values]


def reach_of(bars):
    return [segment[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]


def lines_by_label(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_rows_that_are_numbers_stand_at_them_and_failed_ones_are_marked(drawn, tmp_path):
    lines = {"": {"full": {"0.25": [Point("", 1.0)], "0.7": [Point("", 0.5)]}}}
    figure.draw(MEASURES["accuracy"], "Ratio", "ratio", lines, ["0.45"], tmp_path / "a.png")
    shown = lines_by_label(drawn[0].axes[0])
    assert list(shown["full"].get_xdata()) == [0.25, 0.7]
    assert list(shown["a cell failed"].get_xdata()) == [0.45]


def test_seeds_are_drawn_as_their_mean_and_reach(drawn, tmp_path):
    lines = {"": {"B, full": {"x": spot(1.0, None, 3.0), "y": spot(5.0, 5.0), "z": spot(None)}}}
    figure.draw(MEASURES["accuracy"], "", "", lines, [], tmp_path / "a.png")
    (bars,) = drawn[0].axes[0].containers
    assert list(bars.lines[0].get_ydata()) == [2.0, 5.0]
    assert reach_of(bars) == [[1.0, 3.0], [5.0, 5.0]]
    assert drawn[0].get_suptitle() == "bars: least to most of the seeds"


def test_a_single_seed_is_drawn_with_its_interval(drawn, tmp_path):
    alone = [Point("", 0.5, interval=(0.25, 0.625))]
    lines = {"": {"B": {"1": alone, "2": spot(0.5)}, "C": {"1": spot(0.5)}}}
    figure.draw(MEASURES["accuracy"], "Ratio", "", lines, [], tmp_path / "a.png")
    (bars,) = drawn[0].axes[0].containers
    assert reach_of(bars) == [[0.25, 0.625], [0.5, 0.5]]
    assert drawn[0].get_suptitle() == "Ratio\nbars: 95 % interval of a single seed"
    lines[""]["C"]["2"] = spot(0.5, 0.75)
    figure.draw(MEASURES["accuracy"], "", "", lines, [], tmp_path / "a.png")
    both = "bars: least to most of the seeds or 95 % interval of a single seed"
    assert drawn[1].get_suptitle() == both


def test_seeds_that_are_alike_can_be_drawn(drawn, tmp_path):
    lines = {"": {"full": {"1": spot(0.1, 0.1, 0.1)}}}  # whose mean is above 0.1 by its rounding
    figure.draw(MEASURES["accuracy"], "", "", lines, [], tmp_path / "a.png")
    (bars,) = drawn[0].axes[0].containers
    assert reach_of(bars)[0] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(("rows", "style"), [(("0.25", "0.7"), "-"), (("0.25", "all"), "None")])
@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.75)])
def test_a_line_joins_numbers_alone(drawn, tmp_path, rows, style, values):
    lines = {"": {"full": {row: spot(*values) for row in rows}}}
    figure.draw(MEASURES["accuracy"], "", "", lines, [], tmp_path / "a.png")
    assert drawn[0].axes[0].get_lines()[0].get_linestyle() == style


@pytest.mark.parametrize(
    ("rows", "full", "two"),
    [(("1", "4"), [1, 4], [1, 4]), (("a", "b"), [-0.05, 0.95], [0.05, 1.05])],
)
def test_lines_over_names_stand_side_by_side(drawn, tmp_path, rows, full, two):
    lines = {"": {name: {row: spot(0.5) for row in rows} for name in ("full", "two")}}
    figure.draw(MEASURES["accuracy"], "", "", lines, [], tmp_path / "a.png")
    shown = lines_by_label(drawn[0].axes[0])
    assert list(shown["full"].get_xdata()) == pytest.approx(full)
    assert list(shown["two"].get_xdata()) == pytest.approx(two)


def test_where_rows_are_no_axis_the_title_counts_what_failed(drawn, tmp_path):
    lines = {"": {"full": {16: [Point("", 1.0, x=16)], 4: [Point("", 0.5, x=4)]}}}
    measure = MEASURES["refreshed_loss"]
    figure.draw(measure, "Refresh", "", lines, ["a", "a"], tmp_path / "a.png")
    assert "2 cells failed" in drawn[0].get_suptitle()
    assert list(lines_by_label(drawn[0].axes[0])["full"].get_xdata()) == [4, 16]


def test_seeds_that_stand_a_little_elsewhere_are_drawn_once(drawn, tmp_path):
    lines = {"": {"none": {"none": [Point("none", 0.5, x=x) for x in (3.0, 3.1, 3.5)]}}}
    figure.draw(MEASURES["refreshed_accuracy"], "", "", lines, [], tmp_path / "a.png")
    (line,) = drawn[0].axes[0].get_lines()
    assert line.get_xdata() == pytest.approx([3.2])
