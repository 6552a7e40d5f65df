"""The figure of a measure: a line for each series and system, a panel for each task."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from overfill_jax.evaluation.plots import STYLES, finish, save
from overfill_jax.experiments.lines import Lines, Spot, mean, reach, values_of
from overfill_jax.experiments.measures import TITLES, Measure

# Of lines that are no system's own: colours of Okabe and Ito, and what else tells them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("-", "--", ":", "-.")
FAILED = "#B00020"
COLUMNS = 3  # of panels
SHIFT = 0.1  # from line to line, where names stand on the x axis: of the way to the next name


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
            beside = SHIFT * (names.index(name) - (len(names) - 1) / 2)
            _draw_line(axes, line, ticks, beside, label=name, **styles[name])
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
    missing = f"{len(failed)} cells failed and are missing" if failed and not ticks else ""
    figure.suptitle("\n".join(filter(None, (title, missing, _bars(lines)))), fontsize=11)
    save(figure, path)


def _ticks(panels: Lines, failed: Sequence[str]) -> list[str]:
    """The rows, if not all of them are numbers."""
    rows = [key for panel in panels.values() for line in panel.values() for key in line]
    return list(dict.fromkeys(map(str, [*rows, *failed])))


def _numbers(ticks: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(tick)) for tick in ticks)
    except ValueError:
        return False


def _places(ticks: Sequence[str]) -> dict[str, float]:
    """Where each row stands: at its number if all are numbers, else in turn."""
    if _numbers(ticks):
        return {tick: float(tick) for tick in ticks}
    return {tick: float(place) for place, tick in enumerate(ticks)}


def _draw_line(axes: Axes, line: Mapping, ticks: Sequence[str], beside: float, **style) -> None:
    """The means, with bars where there is a reach.

    Over names no line joins them, and they stand `beside` their places, for others stand there.
    """
    places = _places(ticks)
    spots = sorted(
        (places[key] if spot[0].x is None else mean(point.x for point in spot), *_bar(spot))
        for key, spot in line.items()
        if values_of(spot)
    )
    if not spots:
        return
    xs, means, below, above = zip(*spots, strict=True)
    look = {**style, "lw": 1.6, "ms": 6 if len(xs) < 20 else 0}
    if not _numbers(ticks):
        look["ls"], xs = "none", [x + beside for x in xs]
    if any(below + above):
        axes.errorbar(xs, means, [below, above], capsize=3, **look)
    else:
        axes.plot(xs, means, **look)


def _bar(spot: Spot) -> tuple[float, float, float]:
    """The mean, and how far the bar goes below and above it."""
    middle = mean(values_of(spot))
    low, high = reach(spot) or (middle, middle)
    # Of seeds that are alike, the mean may be off by its rounding.
    return middle, max(middle - low, 0.0), max(high - middle, 0.0)


def _bars(lines: Lines) -> str:
    """What the bars stand for; '' if there are none."""
    spots = [spot for panel in lines.values() for line in panel.values() for spot in line.values()]
    kinds = {
        "least to most of the seeds": any(len(values_of(spot)) > 1 for spot in spots),
        "95 % interval of a single seed": any(
            len(values_of(spot)) == 1 and reach(spot) for spot in spots
        ),
    }
    told = " or ".join(kind for kind, there in kinds.items() if there)
    return told and f"bars: {told}"


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
