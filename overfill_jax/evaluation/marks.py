"""Marks: the verdicts on answers, given once all of a system's are in, and kept with them.

No model waits for a verdict, which may take seconds. A stored one stands as long as the same would
judge by the same: with other code, another version of a package or another expected answer it is
given again, so that all answers of a score were judged alike.
"""

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from overfill_jax.evaluation import tasks
from overfill_jax.evaluation.answer_log import AnswerLog
from overfill_jax.evaluation.tasks.question import Benchmark, Question

SOURCES = Path(tasks.__file__).parent


def mark(benchmark: Benchmark, questions: Sequence[Question], log: AnswerLog, title: str) -> None:
    """Gives the answers of these questions marks where they have none, or none that still stand.

    Args:
      benchmark: gives the verdicts.
      questions: all of them answered.
      log: of the answers; verdicts are in it and its file when this ends, also by an exception.
      title: of the progress bar.
    """
    judge = judge_of(benchmark)
    left = [
        question for question in questions if not _stands(log.rows[question.id], question, judge)
    ]
    marked: dict[str, dict[str, Any]] = {}
    try:
        for question in tqdm(left, title, unit=" verdicts", disable=not left):
            row = log.rows[question.id]
            marks = benchmark.verdict(question, row["answer"])
            marked[question.id] = row | {"gold": question.gold, "marks": marks, "judge": judge}
    finally:
        log.update(marked)


def judge_of(benchmark: Benchmark) -> str:
    """What a verdict depends on beside question and answer: our code, Python and the packages."""
    code = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.py")):
        code.update(path.read_bytes())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in benchmark.packages]
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return ", ".join([f"code {code.hexdigest()[:12]}", python, *versions])


def _stands(row: dict[str, Any], question: Question, judge: str) -> bool:
    # A row that was read has lists where a question may have tuples.
    same_gold = json.dumps(row.get("gold")) == json.dumps(question.gold)
    return "marks" in row and row.get("judge") == judge and same_gold
