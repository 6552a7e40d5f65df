import dataclasses
import importlib.metadata
import json

import pytest

from overfill_jax.evaluation import marks
from overfill_jax.evaluation.answer_log import AnswerLog
from overfill_jax.evaluation.tasks.question import Benchmark, Question
from overfill_jax.evaluation.tasks.registry import BENCHMARKS

QUESTIONS = [Question(f"{n}", [], ("b", n)) for n in range(3)]


@pytest.fixture
def log(tmp_path):
    found = AnswerLog(tmp_path / "full.jsonl", {}, {})
    for question in QUESTIONS:
        found.append({"id": question.id, "prompt": "p", "gold": question.gold, "answer": "a b"})
    return found


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "full.jsonl").read_text().splitlines()]


class Judge:
    """Whether the answer has the letter that is expected; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, question, answer):
        self.asked.append(question.id)
        return {"right": float(question.gold[0] in answer)}


def benchmark(judge, **change):
    return Benchmark("tiny", lambda path, shots: [], judge, 0, 8, **change)


def test_marks_are_stored_once(log, tmp_path):
    first, second = Judge(), Judge()
    marks.mark(benchmark(first), QUESTIONS, log, "full")
    assert first.asked == ["0", "1", "2"]
    assert [row["marks"] for row in lines(tmp_path)] == [{"right": 1.0}] * 3
    assert list(log.rows.values()) != lines(tmp_path)  # there, golds are lists
    marks.mark(benchmark(second), QUESTIONS, log, "full")
    again = AnswerLog(tmp_path / "full.jsonl", {}, {})
    marks.mark(benchmark(second), QUESTIONS, again, "full")
    assert second.asked == []


def test_another_expected_answer_is_judged_by(log, tmp_path):
    marks.mark(benchmark(Judge()), QUESTIONS, log, "full")
    judge = Judge()
    changed = [dataclasses.replace(QUESTIONS[0], gold=("c", 0)), *QUESTIONS[1:]]
    marks.mark(benchmark(judge), changed, log, "full")
    assert judge.asked == ["0"]
    assert lines(tmp_path)[0]["gold"] == ["c", 0]
    assert [row["marks"]["right"] for row in lines(tmp_path)] == [0, 1, 1]


def test_another_version_of_a_package_judges_again(log, monkeypatch):
    marks.mark(benchmark(Judge(), packages=("numpy",)), QUESTIONS, log, "full")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    for times in (1, 0):
        judge = Judge()
        marks.mark(benchmark(judge, packages=("numpy",)), QUESTIONS, log, "full")
        assert len(judge.asked) == 3 * times
    assert log.rows["0"]["judge"].endswith(", numpy 99.0")
    judge = Judge()
    marks.mark(benchmark(judge, packages=()), QUESTIONS, log, "full")
    assert len(judge.asked) == 3


def test_changed_code_judges_again(log, tmp_path, monkeypatch):
    (tmp_path / "task.py").write_text("right = 1")
    monkeypatch.setattr(marks, "SOURCES", tmp_path)
    marks.mark(benchmark(Judge()), QUESTIONS, log, "full")
    (tmp_path / "task.py").write_text("right = 2")
    judge = Judge()
    marks.mark(benchmark(judge), QUESTIONS, log, "full")
    assert len(judge.asked) == 3


@pytest.mark.parametrize("name, module", [("math", "math_verify"), ("ifeval", "langdetect")])
def test_packages_of_a_task_are_named(name, module):
    pytest.importorskip(module)
    judge = marks.judge_of(BENCHMARKS[name])
    assert all(f", {package} " in judge for package in BENCHMARKS[name].packages)
    assert f", {module.replace('_', '-')} {importlib.metadata.version(module)}" in judge


def test_the_code_of_the_tasks_is_read():
    assert (marks.SOURCES / "mathematics.py").exists()


def test_a_verdict_that_fails_leaves_those_before_it(log, tmp_path):
    def failing(question, answer):
        if question.id == "2":
            raise RuntimeError
        return {"right": 1.0}

    with pytest.raises(RuntimeError):
        marks.mark(benchmark(failing), QUESTIONS, log, "full")
    assert ["marks" in row for row in lines(tmp_path)] == [True, True, False]
    judge = Judge()
    marks.mark(benchmark(judge), QUESTIONS, log, "full")
    assert judge.asked == ["2"]
