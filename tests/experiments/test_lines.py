"""Points become lines and tables: what joins, what stays apart."""

import pytest

from configs import default
from overfill_jax.experiments.cells import cells_of
from overfill_jax.experiments.lines import lines_of, table_of, undefined_in
from overfill_jax.experiments.measures import MEASURES, Point


@pytest.fixture
def cells():
    config = default.get_config()
    config.experiment.update({"rows": ("1: ", "2: "), "series": ("A: ", "B: "), "seeds": (0, 1, 2)})
    return cells_of(config)


def test_seeds_join_where_rows_are_the_x(cells):
    points = {cell: [Point("full", 10 * int(cell.row) + cell.seed)] for cell in cells}
    lines = lines_of(MEASURES["accuracy"], points)
    spots = {row: [Point("full", 10 * int(row) + seed) for seed in (0, 1, 2)] for row in "12"}
    assert lines == {"": {"A, full": spots, "B, full": spots}}
    assert table_of(MEASURES["accuracy"], "ratio", lines) == [
        ["ratio", "A, full", "B, full"],
        ["1", "11 (10 to 12; 3 seeds)", "11 (10 to 12; 3 seeds)"],
        ["2", "21 (20 to 22; 3 seeds)", "21 (20 to 22; 3 seeds)"],
    ]


def test_numbers_that_are_not_defined_are_told_and_counted(cells):
    values = {("1", 1): None, ("2", 0): None, ("2", 1): None, ("2", 2): None}
    points = {
        cell: [Point("over scratch", values.get((cell.row, cell.seed), 0.8 + cell.seed / 20))]
        for cell in cells
        if cell.series == "A"
    }
    measure = MEASURES["relative_gain"]
    assert table_of(measure, "ratio", lines_of(measure, points)) == [
        ["ratio", "A, over scratch"],
        ["1", "0.85 (0.8 to 0.9; 2 of 3 seeds)"],
        ["2", "undefined"],
    ]
    assert undefined_in(points) == [
        f"{row}, A, seed {seed}, over scratch" for row, seed in ("20", "11", "21", "22")
    ]
    alone = {cell: of_cell for cell, of_cell in points.items() if (cell.row, cell.seed) < ("1", 2)}
    _, (_, told) = table_of(measure, "", lines_of(measure, alone))
    assert told == "0.8 (1 of 2 seeds)"


def test_a_single_seed_has_the_interval_of_its_result(cells):
    points = {
        cell: [Point("full", 0.8, interval=(0.7, 0.85))] for cell in cells[:4] if cell.row == "1"
    }
    measure = MEASURES["accuracy"]
    _, row = table_of(measure, "", lines_of(measure, points))
    assert row == ["1", *["0.8 (0.7 to 0.85; 95 % interval)"] * 2]
    points[cells[4]] = [Point("full", None)]
    _, row = table_of(measure, "", lines_of(measure, points))
    assert row[1] == "0.8 (0.7 to 0.85; 95 % interval; 1 of 2 seeds)"
    points[cells[4]] = [Point("full", 0.9, interval=(0.8, 0.95))]
    _, row = table_of(measure, "", lines_of(measure, points))
    assert row[1] == "0.85 (0.8 to 0.9; 2 seeds)"


def test_rows_are_lines_where_something_else_is_the_x(cells):
    points = {cell: [Point("", 0.5, x=x) for x in (4, 2)] for cell in cells[:4]}
    lines = lines_of(MEASURES["refreshed_loss"], points)
    assert list(lines[""]) == ["1, A", "1, B", "2, A", "2, B"]
    assert [row[0] for row in table_of(MEASURES["refreshed_loss"], "", lines)[1:]] == ["2", "4"]


def test_rows_join_where_they_differ_in_how_far_along_the_x_they_are(cells):
    points = {cell: [Point("full", 0.5, x=100 * int(cell.row) + cell.seed)] for cell in cells}
    lines = lines_of(MEASURES["accuracy_by_tokens"], points)
    assert list(lines[""]) == ["A, full", "B, full"]
    stand = {row: [point.x for point in spot] for row, spot in lines[""]["A, full"].items()}
    assert stand == {"1": [100, 101, 102], "2": [200, 201, 202]}


@pytest.mark.parametrize("policies", [("none", "every 4"), ("none",)])
def test_seeds_join_where_each_stands_a_little_elsewhere(cells, policies):
    points = {
        cell: [Point(policy, 0.5 + cell.seed / 10, x=3 + cell.seed / 10) for policy in policies]
        for cell in cells[::4]  # the first of each seed
    }
    measure = MEASURES["refreshed_accuracy"]
    assert table_of(measure, "", lines_of(measure, points)) == [
        ["", measure.x, measure.axis],
        *([f"A, {policy}", "3.1", "0.6 (0.5 to 0.7; 3 seeds)"] for policy in policies),
    ]


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
