"""The figure of a measure: a line for each series and system, a panel for each task."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from overfill_jax.evaluation.plots import STYLES, finish, save
from overfill_jax.experiments.lines import Lines, mean, values_of
from overfill_jax.experiments.measures import TITLES, Measure

# Of lines that are no system's own: colours of Okabe and Ito, and what else tells them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("-", "--", ":", "-.")
FAILED = "#B00020"
COLUMNS = 3  # of panels


def draw(
    measure: Measure, title: str, x: str, lines: Lines, failed: Sequence[str], path: Path
) -> None:
    """Draws to a PNG file.

    Args:
      measure: what the numbers are.
      title: above it.
      x: what the rows differ in.
      lines: as `lines_of` has them.
      failed: the rows of cells that failed, one for each.
      path: of the file.
    """
    panels = lines or {"": {}}
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 + 3.6 * columns, 1.4 + 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    ticks = [] if measure.x else _ticks(panels, failed)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    styles = {name: _style(name, number) for number, name in enumerate(names)}
    for axes, (panel, of_panel) in zip(grid, panels.items(), strict=False):
        for name, line in of_panel.items():
            _draw_line(axes, line, ticks, label=name, **styles[name])
        _finish(axes, measure, x, ticks)
        _mark_failed(axes, failed, ticks)
        axes.set_title(panel, fontsize=10)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    labels = {
        label: handle
        for axes in grid
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels, loc="outside right upper", frameon=False, fontsize=9)
    told = f"\n{len(failed)} cells failed and are missing" if failed and not ticks else ""
    figure.suptitle(title + told, fontsize=11)
    save(figure, path)


def _ticks(panels: Lines, failed: Sequence[str]) -> list[str]:
    """The rows, if not all of them are numbers."""
    rows = [key for panel in panels.values() for line in panel.values() for key in line]
    return list(dict.fromkeys(map(str, [*rows, *failed])))


def _places(ticks: Sequence[str]) -> dict[str, float]:
    """Where each row stands: at its number if all are numbers, else in turn."""
    try:
        return {tick: float(tick) for tick in ticks}
    except ValueError:
        return {tick: float(place) for place, tick in enumerate(ticks)}


def _draw_line(axes: Axes, line: Mapping, ticks: Sequence[str], **style) -> None:
    places = _places(ticks)
    spots = sorted(
        (places[key] if spot[0].x is None else mean(point.x for point in spot), values)
        for key, spot in line.items()
        if (values := values_of(spot))
    )
    xs = [x for x, _ in spots]
    means = [mean(values) for _, values in spots]
    if any(len(values) > 1 for _, values in spots):
        errors = [
            [middle - min(values) for middle, (_, values) in zip(means, spots, strict=True)],
            [max(values) - middle for middle, (_, values) in zip(means, spots, strict=True)],
        ]
        axes.errorbar(xs, means, errors, capsize=3, lw=1.6, ms=6, **style)
    elif spots:
        axes.plot(xs, means, lw=1.6, ms=6 if len(xs) < 20 else 0, **style)


def _finish(axes: Axes, measure: Measure, x: str, ticks: Sequence[str]) -> None:
    finish(axes, measure.x or x, measure.axis)
    if measure.logarithmic:
        axes.set_yscale("log")
    if ticks:
        places = _places(ticks)
        axes.set_xticks(list(places.values()), list(places))
        if max(map(len, ticks)) > 8:
            axes.tick_params("x", rotation=25)


def _mark_failed(axes: Axes, failed: Sequence[str], ticks: Sequence[str]) -> None:
    if failed and ticks:
        places = _places(ticks)
        axes.plot(
            [places[row] for row in failed],
            [0.04] * len(failed),
            "x",
            ms=9,
            mew=2,
            color=FAILED,
            transform=axes.get_xaxis_transform(),
            label="a cell failed",
        )


def _style(name: str, number: int) -> dict[str, str]:
    for system, title in TITLES.items():
        if title == name:
            colour, marker, dashes = STYLES[system]
            return {"color": colour, "marker": marker, "ls": dashes}
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "ls": DASHES[number // len(COLOURS) % len(DASHES)],
    }
