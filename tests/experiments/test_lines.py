"""Points become lines and tables: what joins, what stays apart."""

import pytest

from configs import default
from overfill_jax.experiments.cells import cells_of
from overfill_jax.experiments.lines import lines_of, table_of
from overfill_jax.experiments.measures import MEASURES, Point


@pytest.fixture
def cells():
    config = default.get_config()
    config.experiment.update({"rows": ("1: ", "2: "), "series": ("A: ", "B: "), "seeds": (0, 1)})
    return cells_of(config)


def test_seeds_join_where_rows_are_the_x(cells):
    points = {
        cell: [Point("full", 10 * int(cell.row) + cell.seed), Point("scratch", None)]
        for cell in cells
    }
    lines = lines_of(MEASURES["accuracy"], points)
    assert lines == {
        "": {f"{s}, full": {"1": [("1", 10), ("1", 11)], "2": [("2", 20), ("2", 21)]} for s in "AB"}
    }
    assert table_of(MEASURES["accuracy"], "ratio", lines) == [
        ["ratio", "A, full", "B, full"],
        ["1", "10.5 (10 to 11)", "10.5 (10 to 11)"],
        ["2", "20.5 (20 to 21)", "20.5 (20 to 21)"],
    ]


def test_rows_are_lines_where_something_else_is_the_x(cells):
    points = {cell: [Point("", 0.5, x=x) for x in (4, 2)] for cell in cells[:4]}
    lines = lines_of(MEASURES["refreshed_loss"], points)
    assert list(lines[""]) == ["1, A", "1, B", "2, A", "2, B"]
    assert [row[0] for row in table_of(MEASURES["refreshed_loss"], "", lines)[1:]] == ["2", "4"]


def test_rows_join_where_they_differ_in_how_far_along_the_x_they_are(cells):
    points = {cell: [Point("full", 0.5, x=100 * int(cell.row) + cell.seed)] for cell in cells}
    lines = lines_of(MEASURES["accuracy_by_tokens"], points)
    assert list(lines[""]) == ["A, full", "B, full"]
    assert lines[""]["A, full"] == {"1": [(100, 0.5), (101, 0.5)], "2": [(200, 0.5), (201, 0.5)]}


def test_panels_are_rows_of_the_table(cells):
    points = {cells[0]: [Point("full", 1.0, panel=task) for task in ("maths", "law")]}
    table = table_of(MEASURES["scores"], "", lines_of(MEASURES["scores"], points))
    assert table == [["task", "", "A, full"], ["maths", "1", "1"], ["law", "1", "1"]]


def test_lines_of_one_place_each_are_rows_of_the_table(cells):
    measure = MEASURES["precision"]
    points = {cells[0]: [Point("int8", 0.9, x=20), Point("int4", 0.8, x=10), Point("", 1, x=20)]}
    table = table_of(measure, "", lines_of(measure, points))
    assert table == [
        ["", measure.x, measure.axis],
        ["A, int8", "20", "0.9"],
        ["A, int4", "10", "0.8"],
        ["A", "20", "1"],
    ]
    points[cells[0]].append(Point("", 1, x=40))
    table = table_of(measure, "", lines_of(measure, points))
    assert [row[0] for row in table] == [measure.x, "10", "20", "40"]
