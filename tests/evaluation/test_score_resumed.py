"""Runs of the score stage that go on where others were stopped: no question is asked twice."""

import dataclasses
import json

import pytest

from overfill_jax.evaluation import score
from overfill_jax.evaluation.answer_log import AnswerLog
from overfill_jax.evaluation.tasks import registry
from tests.evaluation import test_score
from tests.evaluation.test_score import QUESTIONS, TINY, lines, result, verdict

# The fixtures: a config of the task TINY, and the folder with models and questions.
config, workdir, models = test_score.config, test_score.workdir, test_score.models


def test_a_half_finished_run_goes_on(config, workdir, monkeypatch):
    score.run(config, workdir)
    whole = lines(workdir, "full")
    path = workdir / "scores" / "tiny" / "full.jsonl"
    kept = path.read_text().splitlines(keepends=True)[:4]
    path.write_text("".join(kept) + '{"id": "9", "pro')
    asked = []
    answer_all = score.answer_all

    def recorded(system, models, exam, left, log):
        asked.extend((system.name, one.question.id) for one in left)
        answer_all(system, models, exam, left, log)

    monkeypatch.setattr(score, "answer_all", recorded)
    score.run(config, workdir)
    done = {json.loads(line)["id"] for line in kept}
    assert {name for name, _ in asked} == {"full"}
    assert sorted(number for _, number in asked) == sorted({row["id"] for row in whole} - done)
    by_id = {row["id"]: row for row in lines(workdir, "full")}
    assert by_id == {row["id"]: row for row in whole}


def test_a_run_that_is_stopped_leaves_what_it_has(config, workdir, monkeypatch):
    appended = []
    append = AnswerLog.append

    def stopped(log, row):
        if len(appended) == 4:
            raise KeyboardInterrupt
        appended.append(row["id"])
        append(log, row)

    monkeypatch.setattr(AnswerLog, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        score.run(config, workdir)
    monkeypatch.undo()
    monkeypatch.setitem(registry.BENCHMARKS, "tiny", TINY)
    assert [row["id"] for row in lines(workdir, "full")] == appended
    score.run(config, workdir)
    ids = [row["id"] for row in lines(workdir, "full")]
    assert ids[:4] == appended
    assert sorted(ids) == [f"{n}" for n in range(1, QUESTIONS + 1)]


def test_a_finished_run_loads_no_model(config, workdir, monkeypatch):
    score.run(config, workdir)
    before = result(workdir, "two_stage")
    monkeypatch.setattr(score, "swap_models", lambda *_: pytest.fail("a model was loaded"))
    score.run(config, workdir)
    assert result(workdir, "two_stage") == before


def test_a_finished_run_is_judged_anew_by_another_judge(config, workdir, monkeypatch):
    score.run(config, workdir)
    path = workdir / "scores" / "tiny" / "full.jsonl"
    rows = lines(workdir, "full")
    old = [row | {"marks": {"even": 1.0, "share": 1.0}, "judge": "another"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    before = result(workdir, "full")
    score.run(config, workdir)
    assert result(workdir, "full") == before
    assert lines(workdir, "full") == rows  # which the report shows


def test_no_model_waits_for_a_verdict(config, workdir, monkeypatch):
    """Of each system, answers come first; what a stopped run has judged is not judged again."""
    events = []
    append = AnswerLog.append

    def recorded(log, row):
        events.append("answer")
        append(log, row)

    def judged(question, answer):
        events.append("verdict")
        if events.count("verdict") == QUESTIONS - 1:
            raise KeyboardInterrupt
        return verdict(question, answer)

    monkeypatch.setattr(AnswerLog, "append", recorded)
    slow = dataclasses.replace(TINY, verdict=judged)
    monkeypatch.setitem(registry.BENCHMARKS, "tiny", slow)
    with pytest.raises(KeyboardInterrupt):
        score.run(config, workdir)
    assert events == ["answer"] * QUESTIONS + ["verdict"] * (QUESTIONS - 1)
    assert ["marks" in row for row in lines(workdir, "full")].count(False) == 2
    score.run(config, workdir)
    rest = ["verdict"] * 2 + ["answer"] * QUESTIONS + ["verdict"] * QUESTIONS
    assert events[2 * QUESTIONS - 1 :] == rest
    score.run(config, workdir)
    assert len(events) == 2 * QUESTIONS - 1 + len(rest)


def test_a_larger_limit_goes_on_and_a_smaller_counts_fewer(config, workdir):
    config.score.limit = 3
    score.run(config, workdir)
    assert len(lines(workdir, "full")) == result(workdir, "full")["questions"] == 3
    config.score.limit = 5
    score.run(config, workdir)
    assert len(lines(workdir, "full")) == result(workdir, "full")["questions"] == 5
    config.score.limit = 2
    score.run(config, workdir)
    assert len(lines(workdir, "full")) == 5
    assert result(workdir, "full")["questions"] == 2
