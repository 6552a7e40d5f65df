"""The report's plots, as PNG files.

Colours are Okabe and Ito's, told apart by the colour-blind; markers and dashes say the same again.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from overfill_jax import files
from overfill_jax.evaluation.results import Result
from overfill_jax.evaluation.table import scaled

# By system, so that a system looks the same in every report: colour, marker, dashes.
STYLES = {
    "full": ("#000000", "o", "-"),
    "full_tuned": ("#7F7F7F", "h", "-"),
    "two_stage": ("#D55E00", "*", "-"),
    "pruned_tuned": ("#0072B2", "s", "-"),
    "scratch": ("#009E73", "^", "-"),
    "decoder_alone": ("#CC79A7", "D", "--"),
    "pruned_untrained": ("#56B4E9", "v", ":"),
    "pruned_two_stage_untrained": ("#E69F00", "P", ":"),
    "joint": ("#8C510A", "X", "-"),
}
INK = "#333333"
LABEL_GAP = 0.055  # between two labels, as a share of the height
BOUNDS = (-0.06, 1.06)  # of the labels, a little beyond accuracies
SURE = 1e-3  # nats; smaller losses are drawn here, all are as good as none
RARE = 0.05  # answer positions that fewer answers reach are not drawn: too few to mean anything


def accuracy_plot(results: Sequence[Result], path: Path) -> None:
    """Mean accuracy against the parameters that a decoded token reads, every point labelled."""
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes = [result.decode_parameters for result in results]
    for result in results:
        colour, marker, _ = STYLES[result.system.name]
        mean = result.accuracy
        errors = [[mean.share - mean.low], [mean.high - mean.share]]
        x = result.decode_parameters
        axes.errorbar(x, mean.share, errors, color=colour, lw=1.2, capsize=3, zorder=2)
        size = 13 if marker == "*" else 8
        axes.plot(x, mean.share, marker, ms=size, color=colour, mec="white", zorder=3)
    axes.set_xlim(0, 1.35 * max(sizes))
    axes.set_ylim(BOUNDS[0] - 0.02, BOUNDS[1] + 0.02)
    for size in set(sizes):
        _label([result for result in results if result.decode_parameters == size], axes)
    finish(axes, "parameters read per decoded token", "exact-match accuracy (mean of families)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(round(value))))
    axes.set_title("Accuracy against the cost of decoding (bars: 95 % intervals)", fontsize=11)
    save(figure, path)


def _label(results: list[Result], axes: Axes) -> None:
    # Systems of one size share an x, and often nearly a y: their labels are pushed apart.
    results = sorted(results, key=lambda result: result.accuracy.share)
    heights = spread([result.accuracy.share for result in results], LABEL_GAP, *BOUNDS)
    for result, height in zip(results, heights, strict=True):
        colour, _, _ = STYLES[result.system.name]
        x, width = result.decode_parameters, axes.get_xlim()[1]
        leftwards = 0.4 * width < x < 0.7 * width  # else the label would meet the largest model's
        line = {"arrowstyle": "-", "color": colour, "shrinkB": 5}
        axes.annotate(
            f"{result.system.title} {result.accuracy.share:.2f}",
            xy=(x, result.accuracy.share),
            xytext=(x + (-0.05 if leftwards else 0.05) * width, height),
            ha="right" if leftwards else "left",
            va="center",
            fontsize=9,
            color=INK,
            arrowprops=line | {"relpos": (1, 0.5) if leftwards else (0, 0.5)},
        )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved apart to at least `gap`, near where they were, inside the bounds.

    Neighbours that are too close become a block around their mean, which may then meet the next.
    """
    blocks: list[tuple[float, int]] = []  # centre and number of labels
    for height in heights:
        centre, count = height, 1
        while blocks and centre - blocks[-1][0] < gap * (count + blocks[-1][1]) / 2:
            below, more = blocks.pop()
            centre = (centre * count + below * more) / (count + more)
            count += more
            room = gap * (count - 1) / 2
            centre = min(max(centre, low + room), high - room)
        blocks.append((centre, count))
    return [
        centre + gap * (place - (count - 1) / 2)
        for centre, count in blocks
        for place in range(count)
    ]


def loss_plot(results: Sequence[Result], path: Path) -> None:
    """Loss against the place in the answer, a curve for each system."""
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for result in results:
        colour, _, dashes = STYLES[result.system.name]
        positions = result.loss.positions
        often = [p for p in positions if p.tokens >= RARE * positions[0].tokens]
        places = range(1, len(often) + 1)
        width = 2.4 if result.system.name == "two_stage" else 1.6
        label = f"{result.system.title} ({result.loss.total.loss:.3f})"
        losses = [max(p.loss, SURE) for p in often]
        axes.plot(places, losses, dashes, color=colour, lw=width, label=label)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high / 10), high)  # noise within a decade is not to look like structure
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=1)
    finish(axes, "place in the answer (token)", "loss (nats per token)")
    axes.set_title("Answer loss by position", fontsize=11)
    figure.legend(loc="outside right center", frameon=False, fontsize=9, title="system (mean)")
    save(figure, path)


def finish(axes: Axes, x: str, y: str) -> None:
    """Names the axes, and draws no more lines than it takes to read them."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color="#E5E5E5", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG file, whole or not at all."""
    with files.replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
