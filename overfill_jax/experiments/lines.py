"""The points of all cells as the lines of a figure, seeds joined, and the same as a table."""

from collections.abc import Iterable, Mapping, Sequence

from overfill_jax.experiments.cells import Cell
from overfill_jax.experiments.measures import Measure, Point

# The same number of every seed.
Spot = list[Point]
# By panel and line, the spots by what their seeds have in common: a row, an x or a line.
Lines = dict[str, dict[str, dict[float | int | str, Spot]]]


def lines_of(measure: Measure, points: Mapping[Cell, Sequence[Point]]) -> Lines:
    """Joins the points of cells into lines.

    A line is named after what tells it from the others: the row (where rows are not the x axis),
    the series, and what the point itself is of.
    """
    many_rows = len({cell.row for cell in points}) > 1 and measure.x and measure.common != "row"
    found: Lines = {}
    for cell, of_cell in points.items():
        for point in of_cell:
            parts = (cell.row if many_rows else "", cell.series, point.line)
            name = ", ".join(filter(None, parts))
            line = found.setdefault(point.panel, {}).setdefault(name, {})
            common = {"x": point.x, "row": cell.row, "line": point.line}[measure.common]
            line.setdefault(cell.row if point.x is None else common, []).append(point)
    return found


def undefined_in(points: Mapping[Cell, Sequence[Point]]) -> list[str]:
    """The numbers that are not defined: of which cell, and of what there."""
    return [
        ", ".join(filter(None, (cell.title, point.panel, point.line)))
        for cell, of_cell in points.items()
        for point in of_cell
        if point.value is None
    ]


def table_of(measure: Measure, x: str, lines: Lines) -> list[list[str]]:
    """Cells of a table, its header first: a row for each panel and place, a column a line.

    Where no line has a second place, a row is a line.
    """
    names = list(dict.fromkeys(name for panel in lines.values() for name in panel))
    panels = len(lines) > 1
    one_each = all(len(line) == 1 for of_panel in lines.values() for line in of_panel.values())
    if measure.x and not panels and one_each:
        (of_panel,) = lines.values()
        spots = [(name, spot) for name, line in of_panel.items() for spot in line.values()]
        return [
            ["", measure.x, measure.axis],
            *(
                [name, _shown(mean(point.x for point in spot)), _spread(spot)]
                for name, spot in spots
            ),
        ]
    place = x if measure.common == "row" or not measure.x else measure.x
    rows = []
    for panel, of_panel in lines.items():
        for key in _keys(of_panel.values()):
            spots = [of_panel.get(name, {}).get(key, []) for name in names]
            first = [panel] if panels else []
            rows.append([*first, _shown(key), *map(_spread, spots)])
    return [[*(["task"] if panels else []), place, *names], *rows]


def values_of(spot: Spot) -> list[float | int]:
    """Of the seeds for which the number is defined."""
    return [point.value for point in spot if point.value is not None]


def reach(spot: Spot) -> tuple[float | int, float | int] | None:
    """From the least to the most of the seeds; of a single one its 95 % interval, if it has one."""
    values = values_of(spot)
    if len(values) > 1:
        return min(values), max(values)
    return next((point.interval for point in spot if point.value is not None), None)


def mean(numbers: Iterable[float | int]) -> float:
    """Of at least one number."""
    found = list(numbers)
    return sum(found) / len(found)


def _spread(spot: Spot) -> str:
    """The mean, from where to where it goes, and of how many seeds; '' where none was run."""
    if not spot:
        return ""
    values = values_of(spot)
    if not values:
        return "undefined"
    notes = []
    if ends := reach(spot):
        notes.append("{:.4g} to {:.4g}".format(*ends))
    if ends and len(values) == 1:
        notes.append("95 % interval")
    if len(spot) > 1:
        notes.append(_counted(len(values), len(spot)))
    return f"{mean(values):.4g}" + (f" ({'; '.join(notes)})" if notes else "")


def _counted(defined: int, seeds: int) -> str:
    return f"{seeds} seeds" if defined == seeds else f"{defined} of {seeds} seeds"


def _keys(lines: Iterable[Mapping[float | int | str, Spot]]) -> list[float | int | str]:
    keys = list(dict.fromkeys(key for line in lines for key in line))
    return keys if any(isinstance(key, str) for key in keys) else sorted(keys)


def _shown(key: float | int | str) -> str:
    return key if isinstance(key, str) else f"{key:,.6g}"
