"""Accuracy against decode time: what `evaluate` found, at the speeds that `benchmark` measured."""

import dataclasses
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from overfill_jax import files
from overfill_jax.evaluation.plots import STYLES, finish, save
from overfill_jax.evaluation.table import as_markdown
from overfill_jax.reporting.section import Section

TITLE = "Accuracy against decode time"
UNMEASURED = (
    "Not measured: `benchmark --config.benchmark.subject=inference` with `plan.model` set to the "
    "full model's config.json times an answer of each."
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A system's accuracy and the milliseconds of one of its tokens."""

    name: str
    title: str
    milliseconds: float
    accuracy: float
    low: float
    high: float


def decode_time_section(workdir: Path, folder: Path) -> Section | None:
    """Draws decode_time.png into `folder`; None where nothing was evaluated."""
    results = [found for found in _results(workdir) if found["system"]["name"] in STYLES]
    if not results:
        return None
    measured = workdir / "benchmark" / "inference.json"
    if not measured.exists():
        return Section(TITLE, UNMEASURED)
    found = files.read_object(measured)
    size = min((a["batch"], a["prompt"], a["answer"]) for a in found["answers"])
    steps = {
        a["system"]: 1e3 * a["step"]
        for a in found["answers"]
        if (a["batch"], a["prompt"], a["answer"]) == size
    }
    points = points_of(results, steps)
    if not points:
        return Section(TITLE, UNMEASURED)
    draw(points, folder / "decode_time.png")
    image = (folder / "decode_time.png").relative_to(workdir).as_posix()
    rows = [[p.title, f"{p.milliseconds:.2f}", f"{p.accuracy:.3f}"] for p in points]
    told = f"{found['title']}. Batch {size[0]}, {size[1]} tokens in, {size[2]} out."
    table = as_markdown([["system", "ms/token", "accuracy"], *rows])
    return Section(TITLE, f"{told}\n\n![{TITLE}]({image})\n\n{table}")


def points_of(results: list[dict[str, Any]], steps: dict[str, float]) -> list[Point]:
    """Systems of the full model's shape at its speed; the others at that of what they write with.

    Those whose like was not timed, as for want of memory, are left out.

    Args:
      results: as `evaluate` stored them.
      steps: milliseconds a token, by the benchmark's names of its systems.
    """
    largest = max(found["decode_parameters"] for found in results)
    points = []
    for found in results:
        system, accuracy = found["system"], found["accuracy"]
        alone = system["reader"] == system["writer"]
        timed = "decoder alone" if alone else "two-stage"
        timed = "full" if found["decode_parameters"] == largest else timed
        if timed not in steps:
            continue
        points.append(
            Point(
                system["name"], system["title"], steps[timed],
                accuracy["share"], accuracy["low"], accuracy["high"],
            )
        )  # fmt: skip
    return sorted(points, key=lambda point: -point.accuracy)


def draw(points: list[Point], path: Path) -> None:
    """Every system a point with its 95 % interval; up and to the left is better."""
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for point in points:
        colour, marker, _ = STYLES[point.name]
        errors = [[point.accuracy - point.low], [point.high - point.accuracy]]
        label = f"{point.title} ({point.accuracy:.2f})"
        axes.errorbar(
            point.milliseconds, point.accuracy, errors, fmt=marker, color=colour, capsize=3,
            ms=11 if marker == "*" else 7, lw=1.2, label=label,
        )  # fmt: skip
    axes.set_xlim(0, 1.15 * max(point.milliseconds for point in points))
    axes.set_ylim(-0.05, 1.05)
    finish(axes, "ms per decoded token", "exact-match accuracy")
    axes.set_title(f"{TITLE} (bars: 95 % intervals)", fontsize=11)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def _results(workdir: Path) -> list[dict[str, Any]]:
    found = [files.read_object(path) for path in sorted(workdir.glob("results/*.json"))]
    return [one for one in found if "system" in one]
