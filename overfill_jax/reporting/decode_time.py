"""Accuracy against decode time: what `evaluate` found, at the speeds that `benchmark` measured."""

import dataclasses
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from overfill_jax import files
from overfill_jax.benchmarking.systems import DECODER, FULL, TWO_STAGE
from overfill_jax.evaluation.plots import STYLES, finish, save
from overfill_jax.evaluation.table import as_markdown
from overfill_jax.reporting.section import Section

TITLE = "Accuracy against decode time"
UNMEASURED = (
    "Not measured: `benchmark --config.benchmark.subject=inference`, with `plan.model` set to the "
    "config.json that the full model was made from, times an answer of each."
)
UNKNOWN = (
    "Not drawn: `results` or `benchmark/inference.json` do not say of which shapes they are; run "
    "`evaluate` and `benchmark` again."
)
MISFIT = (
    "Not drawn: `benchmark` timed other shapes (its `plan.model` and `prune`) than were evaluated:"
)
OTHERWISE = "Not drawn: `benchmark` timed with {}, which `evaluate` does without."
# Who reads and who writes, by the benchmark's names of its systems.
PAIRS = {FULL: ("full", "full"), DECODER: ("decoder", "decoder"), TWO_STAGE: ("full", "decoder")}
# Settings of the benchmark with which it times what `evaluate` runs.
EVALUATED = {"benchmark.precision": 0, "generate.cache": "", "generate.refresh": "none"}


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
    if reason := find_misfit(results, found):
        return Section(TITLE, reason)
    size = min((a["batch"], a["prompt"], a["answer"]) for a in found["answers"])
    steps = {
        a["system"]: 1e3 * a["step"]
        for a in found["answers"]
        if (a["batch"], a["prompt"], a["answer"]) == size
    }
    points = points_of(results, steps, found["models"])
    if not points:
        return Section(TITLE, UNMEASURED)
    draw(points, folder / "decode_time.png")
    image = (folder / "decode_time.png").relative_to(workdir).as_posix()
    rows = [[p.title, f"{p.milliseconds:.2f}", f"{p.accuracy:.3f}"] for p in points]
    told = f"{found['title']}. Batch {size[0]}, {size[1]} tokens in, {size[2]} out."
    table = as_markdown([["system", "ms/token", "accuracy"], *rows])
    return Section(TITLE, f"{told}\n\n![{TITLE}]({image})\n\n{table}")


def find_misfit(results: list[dict[str, Any]], measured: dict[str, Any]) -> str:
    """Why the times are not those of what was evaluated; '' where they are."""
    if "models" not in measured or any("shapes" not in one for one in results):
        return UNKNOWN
    models, settings = measured["models"], measured["settings"]
    if otherwise := [f"`{k}={v}`" for k, v in settings.items() if v != EVALUATED[k]]:
        return OTHERWISE.format(", ".join(otherwise))
    strange = [one for one in results if not timed_as(one, models)]
    if not strange:
        return ""
    rows = [[f"timed: {name}", *map(str, shape.values())] for name, shape in models.items()]
    rows += [
        [f"evaluated: {one['system']['title']}, {name}", *map(str, shape.values())]
        for one in strange
        for name, shape in one["shapes"].items()
    ]
    header = ["", *(name.replace("_", " ") for name in models["full"])]
    return f"{MISFIT}\n\n{as_markdown([header, *rows])}"


def timed_as(found: dict[str, Any], models: dict[str, dict[str, int]]) -> str:
    """The benchmark's name of the system of these shapes; '' where it timed none."""
    for name, (reader, writer) in PAIRS.items():
        if found["shapes"] == {"reader": models[reader], "writer": models[writer]}:
            return name
    return ""


def points_of(
    results: list[dict[str, Any]], steps: dict[str, float], models: dict[str, dict[str, int]]
) -> list[Point]:
    """Every system at the speed of its shapes.

    Those whose like was not timed, as for want of memory, are left out.

    Args:
      results: as `evaluate` stored them.
      steps: milliseconds a token, by the benchmark's names of its systems.
      models: dimensions of what it timed.
    """
    points = []
    for found in results:
        system, accuracy = found["system"], found["accuracy"]
        timed = timed_as(found, models)
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
    """Those of the last evaluation: of a system that it left out, the file is of former models."""
    found = [files.read_object(path) for path in sorted(workdir.glob("results/*.json"))]
    found = [one for one in found if "system" in one]
    summary = workdir / "report" / "summary.json"
    if not summary.exists():
        return found
    compared = files.read_object(summary)["accuracy"]
    return [one for one in found if one["system"]["name"] in compared]
