"""The points of all cells as the lines of a figure, seeds joined, and the same as a table."""

from collections.abc import Iterable, Mapping, Sequence

from overfill_jax.experiments.cells import Cell
from overfill_jax.experiments.measures import Measure, Point

# The same number of every seed: where it stands, and what it is.
Spot = list[tuple[float | int | str, float | int]]
# By panel and line, the spots by what tells them apart, a row or an x.
Lines = dict[str, dict[str, dict[float | int | str, Spot]]]


def lines_of(measure: Measure, points: Mapping[Cell, Sequence[Point]]) -> Lines:
    """Joins the points of cells into lines; values that are not defined are left out.

    A line is named after what tells it from the others: the row (where rows are not the x axis),
    the series, and what the point itself is of.
    """
    many_rows = len({cell.row for cell in points}) > 1 and measure.x and not measure.joins
    found: Lines = {}
    for cell, of_cell in points.items():
        for point in of_cell:
            if point.value is None:
                continue
            parts = (cell.row if many_rows else "", cell.series, point.line)
            name = ", ".join(filter(None, parts))
            line = found.setdefault(point.panel, {}).setdefault(name, {})
            place = cell.row if point.x is None else point.x
            # Seeds may stand at slightly different places, as where these count tokens.
            key = cell.row if measure.joins else place
            line.setdefault(key, []).append((place, point.value))
    return found


def table_of(measure: Measure, x: str, lines: Lines) -> list[list[str]]:
    """Cells of a table, its header first: a row for each panel and place, a column a line.

    Where no line has a second place, a row is a line.
    """
    names = list(dict.fromkeys(name for panel in lines.values() for name in panel))
    panels = len(lines) > 1
    place = x if measure.joins or not measure.x else measure.x
    one_each = all(len(line) == 1 for of_panel in lines.values() for line in of_panel.values())
    if measure.x and not panels and one_each and len(names) > 1:
        (of_panel,) = lines.values()
        spots = [(name, *spot) for name, line in of_panel.items() for spot in line.items()]
        return [
            ["", place, measure.axis],
            *([name, _shown(key), _spread(spot)] for name, key, spot in spots),
        ]
    rows = []
    for panel, of_panel in lines.items():
        for key in _keys(of_panel.values()):
            spots = [of_panel.get(name, {}).get(key, []) for name in names]
            first = [panel] if panels else []
            rows.append([*first, _shown(key), *map(_spread, spots)])
    return [[*(["task"] if panels else []), place, *names], *rows]


def mean(numbers: Iterable[float | int]) -> float:
    """Of at least one number."""
    found = list(numbers)
    return sum(found) / len(found)


def _spread(spot: Spot) -> str:
    """The mean, and from where to where the seeds go."""
    values = [value for _, value in spot]
    if len(values) < 2:
        return "".join(f"{value:.4g}" for value in values)
    return f"{mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def _keys(lines: Iterable[Mapping[float | int | str, Spot]]) -> list[float | int | str]:
    keys = list(dict.fromkeys(key for line in lines for key in line))
    return keys if any(isinstance(key, str) for key in keys) else sorted(keys)


def _shown(key: float | int | str) -> str:
    return key if isinstance(key, str) else f"{key:,.6g}"
