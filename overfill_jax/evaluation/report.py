"""The report of an evaluation: tables, plots and sample answers in Markdown."""

import collections
from collections.abc import Sequence
from pathlib import Path

from overfill_jax import files
from overfill_jax.data.instructions import Rejected
from overfill_jax.evaluation import plots
from overfill_jax.evaluation.results import Result
from overfill_jax.evaluation.table import (
    as_markdown,
    beginning,
    comparison,
    ending,
    escaped,
    gap_sentence,
    intervals,
    summary,
)

LINES_SHOWN = 10


def paths(workdir: Path) -> dict[str, Path]:
    """What `write` writes, by name."""
    names = ("summary.json", "accuracy.png", "loss.png", "report.md")
    return {name: workdir / "report" / name for name in names}


def write(
    results: Sequence[Result],
    settings: dict,
    rejected: Sequence[Rejected],
    samples: int,
    workdir: Path,
) -> Path:
    """Writes report/report.md, which it returns, with its plots, and report/summary.json."""
    path = paths(workdir)
    files.write_json(path["summary.json"], summary(results))
    plots.accuracy_plot(results, path["accuracy.png"])
    plots.loss_plot(results, path["loss.png"])
    sections = [
        _introduction(results, settings),
        as_markdown(comparison(results)),
        gap_sentence(results),
        "![Accuracy against parameters read per decoded token](accuracy.png)",
        "![Loss against the place in the answer](loss.png)",
        "## Accuracy with 95 % confidence intervals",
        as_markdown(intervals(results)),
        "## Sample answers",
        *(_sample(results, row) for row in choose_samples(results[0], samples)),
        _curves(workdir),
        "## Time, compilation included",
        _times(results),
        _rejections(rejected),
    ]
    files.write_text(path["report.md"], "\n\n".join(filter(None, sections)) + "\n")
    return path["report.md"]


def choose_samples(result: Result, count: int) -> list[int]:
    """Indices of `count` rows: the first of every family, then the second of every family, ..."""
    seen: collections.Counter[str] = collections.Counter()
    turns = []
    for index, verdict in enumerate(result.verdicts):
        turns.append((seen[verdict.family], index))
        seen[verdict.family] += 1
    return [index for _, index in sorted(turns)[:count]]


def _introduction(results: Sequence[Result], settings: dict) -> str:
    listed = "\n".join(f"- {name}: `{value}`" for name, value in settings.items())
    return (
        f"# Evaluation of {len(results)} systems\n\n{listed}\n\n"
        "A *two-stage* system reads the prompt with the full model and writes with the pruned one; "
        "the others do both with one model. Loss: nats per token of the reference answers. "
        "Accuracy: share of the rows answered right, by greedy decoding; over all, the mean of the "
        "families. Bytes: of the weights that one decoded token reads. Behind them: the tokens of "
        "an answer (mean, median, most), and how many have no text or were cut at their limit."
    )


def _sample(results: Sequence[Result], index: int) -> str:
    verdict = results[0].verdicts[index]
    family = f", {verdict.family}" if verdict.family else ""
    cells = [
        ["prompt", ending(verdict.prompt), ""],
        ["reference", beginning(verdict.reference), ""],
    ]
    for result in results:
        own = result.verdicts[index]
        cells.append([result.system.title, beginning(own.answer), "✓" if own.correct else "✗"])
    return f"### Line {verdict.row}{family}\n\n{as_markdown(cells, numbers=False)}"


def _curves(workdir: Path) -> str:
    found = sorted(workdir.glob("metrics/*/curves.png"))
    images = [f"![{path.parent.name}](../{path.relative_to(workdir).as_posix()})" for path in found]
    return "\n\n".join(["## Training curves", *images]) if images else ""


def _times(results: Sequence[Result]) -> str:
    steps = list(results[0].seconds)
    header = ["system", *(f"{step} (s)" for step in steps)]
    return as_markdown(
        [header]
        + [[r.system.title, *(f"{r.seconds[step]:.1f}" for step in steps)] for r in results]
    )


def _rejections(rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return ""
    lines = [f"- line {one.row}: {escaped(one.reason)}" for one in rejected[:LINES_SHOWN]]
    if len(rejected) > LINES_SHOWN:
        lines.append(f"- and {len(rejected) - LINES_SHOWN} more")
    return "\n\n".join([f"## Rows that could not be used: {len(rejected)}", "\n".join(lines)])
