"""Answers to benchmark questions, those of all systems side by side."""

from pathlib import Path
from typing import Any

from overfill_jax.data import jsonl
from overfill_jax.errors import InputError
from overfill_jax.evaluation.systems import SYSTEMS
from overfill_jax.evaluation.table import as_markdown, beginning, ending, without_empty
from overfill_jax.reporting.section import Section


def answers_section(task: Path, title: str, count: int) -> Section:
    """The first `count` questions of a folder that `score` wrote.

    Raises:
      InputError: a line that is no answer; names it.
    """
    logs = {s.title: _read(task / f"{s.name}.jsonl") for s in SYSTEMS}
    logs = {name: rows for name, rows in logs.items() if rows}
    # Logs are in the order in which answers ended: their first are the shortest. Ids are numbers.
    rows = next(iter(logs.values()), {}).values()
    first = sorted(rows, key=lambda row: (len(row["id"]), row["id"]))[:count]
    parts = [f"### Question {row['id']}\n\n{_side_by_side(row, logs)}" for row in first]
    return Section(title, "\n\n".join(parts) or "No answers yet.")


def _side_by_side(question: dict[str, Any], logs: dict[str, dict[str, dict[str, Any]]]) -> str:
    prompt, gold = question["prompt"], question["gold"]
    cells = [["", "text", "mark"]]
    cells.append(["prompt", ending(prompt), ""])
    cells.append(["expected", _shown(gold), ""])
    for system, rows in logs.items():
        own = rows.get(question["id"])
        # Ids are numbers of lines: of another file they are other questions.
        if own and own["prompt"] == prompt:
            cells.append([system, _shown(own["answer"]), _mark(own.get("marks"))])
    return as_markdown(without_empty(cells), numbers=False)


def _shown(answer: object) -> str:
    if isinstance(answer, list):
        answer = ", ".join(map(_shown, answer))
    return beginning(f"{answer:.3g}" if isinstance(answer, float) else str(answer))


def _mark(marks: dict[str, float] | None) -> str:
    if not marks:  # not judged yet, or a benchmark without marks
        return ""
    first = next(iter(marks.values()))
    return {0.0: "✗", 1.0: "✓"}.get(float(first), f"{first:.2f}")


def _read(log: Path) -> dict[str, dict[str, Any]]:
    if not log.exists():
        return {}
    rows = {}
    for number, line in jsonl.read_lines(log):
        if not line.endswith(b"\n"):  # half-written; `score` asks its question again
            continue
        try:
            row = jsonl.parse(line)
            _ = row["prompt"], row["gold"], row["answer"]
            rows[row["id"]] = row
        except (InputError, KeyError) as error:
            raise InputError(f"{log}:{number}: found no answer's line") from error
    return rows
