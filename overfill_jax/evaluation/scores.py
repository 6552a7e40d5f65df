"""Scores of one system on one benchmark: metrics with their intervals, and the answers' lengths."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from overfill_jax.evaluation import bootstrap
from overfill_jax.evaluation.accuracy import wilson
from overfill_jax.evaluation.lengths import HEADER, Lengths, as_cells, lengths_of
from overfill_jax.evaluation.systems import System
from overfill_jax.evaluation.table import as_markdown, as_text
from overfill_jax.evaluation.tasks.question import Benchmark, Question, Whole

TOLD = ("source", "limit", "shots", "first_token", "signature")  # of a score's settings
ONE_TOKEN = (
    "The first token of every choice is scored by the full model (`first_token=full`); with "
    "one-token choices two-stage equals full."
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Score:
    """One system on all questions of a benchmark.

    Attributes:
      metrics: by name, the one that is compared first.
      groups: the first of the marks within each group of questions; empty where there is one group.
      questions: how many were asked.
      lengths: None where choices were ranked.
    """

    system: System
    metrics: dict[str, Estimate]
    groups: dict[str, Estimate]
    questions: int
    lengths: Lengths | None


def score_of(
    system: System,
    benchmark: Benchmark,
    questions: Sequence[Question],
    rows: Sequence[Mapping[str, Any]],
) -> Score:
    """Sums up the answers to some questions, at least one; a row for each, as the log keeps it."""
    metrics = {name: _mean([row["marks"][name] for row in rows]) for name in rows[0]["marks"]}
    for name, whole in benchmark.whole.items():
        metrics[name] = _of_all(whole, questions, [row["answer"] for row in rows])
    groups = _by_group(questions, rows)
    lengths = _lengths(rows) if "tokens" in rows[0] else None
    return Score(system, metrics, groups, len(rows), lengths)


def _lengths(rows: Sequence[Mapping[str, Any]]) -> Lengths:
    columns = ([row[name] for row in rows] for name in ("tokens", "answer", "ended"))
    return lengths_of(*columns)


def _mean(marks: Sequence[float]) -> Estimate:
    if set(marks) <= {0.0, 1.0}:
        found = wilson(int(sum(marks)), len(marks))
        return Estimate(found.share, found.low, found.high)
    counts = np.array([[mark, 1.0] for mark in marks])
    return Estimate(float(np.mean(marks)), *bootstrap.interval(counts, lambda s: s[0] / s[1]))


def _of_all(whole: Whole, questions: Sequence[Question], answers: Sequence[str]) -> Estimate:
    pairs = zip(questions, answers, strict=True)
    counts = np.array([whole.count(question, answer) for question, answer in pairs], float)
    return Estimate(whole.score(counts.sum(axis=0)), *bootstrap.interval(counts, whole.score))


def _by_group(
    questions: Sequence[Question], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Estimate]:
    marks: dict[str, list[float]] = {}
    for question, row in zip(questions, rows, strict=True):
        if row["marks"]:
            marks.setdefault(question.group, []).append(next(iter(row["marks"].values())))
    return {group: _mean(found) for group, found in marks.items()} if len(marks) > 1 else {}


def table(scores: Sequence[Score]) -> list[list[str]]:
    """Cells of the table, its header first: a row for each system."""
    names = list(scores[0].metrics)
    lengths = HEADER if scores[0].lengths else ()
    return [["system", *names, *lengths, "questions"]] + [
        [
            score.system.title,
            *(_shown(score.metrics[name]) for name in names),
            *(as_cells(score.lengths) if score.lengths else ()),
            f"{score.questions}",
        ]
        for score in scores
    ]


def _shown(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


def as_report(scores: Sequence[Score], settings: Mapping[str, Any]) -> str:
    """The table in Markdown, under a heading, and what it was made with."""
    told = ", ".join(f"`{name}={settings[name]!r}`" for name in TOLD if name in settings)
    parts = [
        f"# {settings['task']}",
        "Metrics with 95 % confidence intervals, and how long the answers are.",
        as_markdown(table(scores)),
        f"With {told}.",
        *[ONE_TOKEN] * _is_partly_the_full_models(scores, settings["first_token"]),
    ]
    return "\n\n".join(parts) + "\n"


def _is_partly_the_full_models(scores: Sequence[Score], first_token: str) -> bool:
    """Whether a pair has ranked choices of which the reader gave the first tokens."""
    ranked = [score.system for score in scores if score.lengths is None]
    return first_token == "full" and any(len(system.folders) > 1 for system in ranked)


def as_lines(scores: Sequence[Score]) -> str:
    """The table for the console."""
    return as_text(table(scores))
