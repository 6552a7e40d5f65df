import dataclasses
import json
import logging

import numpy as np
import pytest

from configs.default import get_config
from overfill_jax.errors import InputError
from overfill_jax.evaluation import exam as exam_module
from overfill_jax.evaluation import score
from overfill_jax.evaluation.exam import load_exam
from overfill_jax.evaluation.systems import FULL, TWO_STAGE
from overfill_jax.evaluation.tasks import registry
from overfill_jax.evaluation.tasks.question import Benchmark, Question, Whole, ask, turn
from overfill_jax.evaluation.tasks.rows import read_rows
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.weights.folders import load_fingerprint, save_model
from overfill_jax.weights.origin import Origin
from tests.evaluation.tasks.files import write_rows
from tests.evaluation.test_evaluate import made as made_models
from tests.evaluation.test_evaluate import make_model

models = made_models  # the fixture: a full model, its copy as decoder, a smaller one as pruned
QUESTIONS = 7


def read(path, shots):
    rows = list(read_rows(path, {"task": str, "answer": str}))
    return [
        Question(
            f"{number}",
            [*turn("sort: b a", "a b") * shots, ask(row["task"])],
            row["answer"],
            prefix="a",
            group=row["task"][:2],
        )
        for number, row in rows
    ]


def verdict(question, answer):
    return {"even": float(len(answer) % 2 == 0), "share": min(1.0, len(answer) / 40)}


TINY = Benchmark(
    name="tiny",
    read=read,
    verdict=verdict,
    shots=1,
    max_new_tokens=8,
    stop=("zz",),
    whole={"length": Whole(lambda q, a: (len(a), 1.0), lambda sums: float(sums[0] / sums[1]))},
)


@pytest.fixture
def workdir(models, tmp_path, monkeypatch):
    """Models that are there already, and a task of seven questions."""
    monkeypatch.setitem(registry.BENCHMARKS, "tiny", TINY)
    for folder in ("full", "decoder", "pruned"):
        (tmp_path / folder).symlink_to(models[0] / folder)
    rng = np.random.default_rng(1)
    rows = [
        {"task": f"sort: {' '.join(rng.permutation(list('abcde')))}", "answer": "a b"}
        for _ in range(QUESTIONS - 1)
    ]
    write_rows(tmp_path, [*rows, {"task": "1 + 2", "answer": "3"}], "test.jsonl")
    return tmp_path


@pytest.fixture
def config(workdir):
    config = get_config()
    config.score.task = "tiny"
    config.score.source = str(workdir / "test.jsonl")
    config.score.systems = ("full", "two_stage")
    config.score.batch_size = 3
    config.score.dtype = "float32"
    return config


def lines(workdir, name):
    text = (workdir / "scores" / "tiny" / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def result(workdir, name):
    return json.loads((workdir / "scores" / "tiny" / f"{name}.json").read_text())


def test_answers_are_those_of_the_generator(config, workdir, models):
    score.run(config, workdir)
    exam = load_exam(config, workdir)
    full = models[1]
    generator = Generator(
        full, full, "full", exam.tokenizer.stop_ids, exam.tokenizer.pad_id, exam.tokenizer
    )
    prompts = [asked.tokens for asked in exam.asked]
    answers = generator.generate(prompts, GREEDY, 8, 2, TINY.stop)
    for name in ("full", "two_stage"):  # the decoder is a copy of the full model
        found = {line["id"]: line for line in lines(workdir, name)}
        assert len(found) == len(lines(workdir, name)) == QUESTIONS
        for asked, answer in zip(exam.asked, answers, strict=True):
            line = found[asked.question.id]
            assert line["answer"] == answer.text
            assert line["tokens"] == len(answer.tokens)
            assert line["ended"] == answer.reason
            assert line["prompt"] == asked.text
            assert line["marks"] == verdict(asked.question, answer.text)


def test_prompts_hold_shots_and_the_beginning_of_the_answer(config, workdir):
    text = load_exam(config, workdir).asked[0].text
    assert text.index("sort: b a") < text.index("a b") < text.rindex("sort: ")
    assert text.endswith("<|assistant|>a")
    config.score.shots = 0
    assert "sort: b a" not in load_exam(config, workdir).asked[0].text


def test_the_score_sums_up_the_lines(config, workdir, capsys):
    score.run(config, workdir)
    found, rows = result(workdir, "full"), lines(workdir, "full")
    marks = [row["marks"] for row in rows]
    metrics = found["metrics"]
    assert list(metrics) == ["even", "share", "length"]
    assert metrics["even"]["value"] == pytest.approx(np.mean([m["even"] for m in marks]))
    assert metrics["share"]["value"] == pytest.approx(np.mean([m["share"] for m in marks]))
    assert metrics["length"]["value"] == pytest.approx(np.mean([len(r["answer"]) for r in rows]))
    for metric in metrics.values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert found["groups"].keys() == {"so", "1 "}
    assert found["lengths"]["most"] == max(row["tokens"] for row in rows)
    assert found["lengths"]["cut"] == sum(row["ended"] == "length" for row in rows)
    assert found["settings"]["reader"] == load_fingerprint(workdir / "full")
    told = capsys.readouterr().out
    table = (workdir / "scores" / "tiny" / "scores.md").read_text()
    for title in ("full", "two-stage"):
        assert f"\n{title} " in told
        assert f"| {title} | {metrics['even']['value']:.3f}" in table


def titles(workdir, task="tiny"):
    """The first cells of the table's rows."""
    lines = (workdir / "scores" / task / "scores.md").read_text().splitlines()
    return [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]


def test_the_table_keeps_what_former_runs_have_scored(config, workdir, capsys):
    config.score.systems = ("two_stage",)
    score.run(config, workdir)
    assert titles(workdir) == ["two-stage"]
    config.score.systems = ("full",)
    score.run(config, workdir)
    assert titles(workdir) == ["full", "two-stage"]
    assert "\ntwo-stage " in capsys.readouterr().out
    both = (workdir / "scores" / "tiny" / "scores.md").read_text()
    config.score.systems = ("full", "two_stage")
    score.run(config, workdir)
    assert (workdir / "scores" / "tiny" / "scores.md").read_text() == both


@pytest.mark.parametrize("key", ["limit", "source", "judge", "signature"])
def test_scores_of_another_exam_are_left_out(config, workdir, monkeypatch, caplog, key):
    score.run(config, workdir)
    config.score.systems = ("full",)
    if key == "limit":
        config.score.limit = 3
    elif key == "source":
        other = workdir / "copy.jsonl"
        other.write_text((workdir / "test.jsonl").read_text())
        config.score.source = str(other)
    elif key == "judge":
        monkeypatch.setattr(exam_module, "judge_of", lambda _: "another")
    else:
        signed = dataclasses.replace(TINY, signature=lambda: "case:mixed")
        monkeypatch.setitem(registry.BENCHMARKS, "tiny", signed)
    with caplog.at_level(logging.WARNING):
        score.run(config, workdir)
    assert titles(workdir) == ["full"]
    assert f"two_stage.json: left out of scores.md; it was found with {key}=" in caplog.text


def test_scores_of_a_former_model_are_left_out(config, workdir, models, caplog):
    score.run(config, workdir)
    (workdir / "decoder").unlink()
    other = make_model(3, vocab_size=models[1].config.vocab_size)
    save_model(workdir / "decoder", other, tokenizer_source=models[0])
    config.score.systems = ("full",)
    with caplog.at_level(logging.WARNING):
        score.run(config, workdir)
    assert titles(workdir) == ["full"]
    assert "two_stage.json: left out of scores.md; it was found with writer=" in caplog.text


def test_scores_say_what_they_were_made_with(config, workdir, monkeypatch):
    signed = dataclasses.replace(TINY, signature=lambda: "case:mixed")
    monkeypatch.setitem(registry.BENCHMARKS, "tiny", signed)
    config.score.limit = 3
    score.run(config, workdir)
    expected = {
        "source": str(workdir / "test.jsonl"), "limit": 3, "shots": 1, "first_token": "full",
        "signature": "case:mixed",
    }  # fmt: skip
    stored = result(workdir, "two_stage")["settings"]
    assert {name: stored[name] for name in expected} == expected
    told = ", ".join(f"`{name}={value!r}`" for name, value in expected.items())
    assert f"\n\nWith {told}.\n" in (workdir / "scores" / "tiny" / "scores.md").read_text()


@pytest.mark.parametrize(
    ("task", "systems", "first_token", "told"),
    [
        ("ranked", ("full", "two_stage"), "full", True),
        ("ranked", ("full",), "full", False),
        ("ranked", ("full", "two_stage"), "decoder", False),
        ("tiny", ("full", "two_stage"), "full", False),
    ],
)
def test_whose_the_first_token_of_a_choice_is(
    config, workdir, monkeypatch, task, systems, first_token, told
):
    monkeypatch.setitem(registry.BENCHMARKS, "ranked", RANKED)
    config.score.update(task=task, systems=systems, first_token=first_token, limit=2)
    score.run(config, workdir)
    text = (workdir / "scores" / task / "scores.md").read_text()
    sentence = "The first token of every choice is scored by the full model (`first_token=full`)"
    assert (sentence in text) == told


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_new_tokens", 4, "made with max_new_tokens=8, now it is 4"),
        ("shots", 0, "made with shots=1, now it is 0"),
        ("dtype", "bfloat16", "made with dtype='float32', now it is 'bfloat16'"),
    ],
)
def test_other_settings_are_refused(config, workdir, key, value, message):
    score.run(config, workdir)
    config.score[key] = value
    with pytest.raises(InputError, match=r"full\.jsonl: ") as error:
        score.run(config, workdir)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_another_model_is_refused(config, workdir, models):
    score.run(config, workdir)
    (workdir / "decoder").unlink()
    other = make_model(3, vocab_size=models[1].config.vocab_size)
    save_model(workdir / "decoder", other, tokenizer_source=models[0])
    with pytest.raises(InputError, match=r"two_stage\.jsonl: .* made with writer='"):
        score.run(config, workdir)


def test_other_questions_are_refused(config, workdir):
    score.run(config, workdir)
    text = (workdir / "test.jsonl").read_text()
    (workdir / "test.jsonl").write_text(text.replace("1 + 2", "1 + 3"))
    with pytest.raises(InputError, match=r"full\.jsonl:\d: found another prompt of question 7"):
        score.run(config, workdir)


@pytest.mark.parametrize("line", ["{}", '{"id": "7", "prompt": ""}', '{"id": "7"'])
def test_a_broken_line_is_named(config, workdir, line):
    score.run(config, workdir)
    path = workdir / "scores" / "tiny" / "full.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(InputError, match=r"full\.jsonl:8: found no answer's line"):
        score.run(config, workdir)


def test_answers_without_their_settings_are_refused(config, workdir):
    score.run(config, workdir)
    (workdir / "scores" / "tiny" / "full.settings.json").unlink()
    with pytest.raises(InputError, match=r"full\.settings\.json: no such file"):
        score.run(config, workdir)


def test_answers_that_reach_the_limit_are_counted(config, workdir):
    config.score.max_new_tokens = 1
    score.run(config, workdir)
    found, rows = result(workdir, "full"), lines(workdir, "full")
    assert found["lengths"]["most"] <= 1
    assert found["lengths"]["cut"] == sum(row["ended"] == "length" for row in rows) > 0


def test_a_model_that_writes_nothing_is_told_and_counted(config, workdir, monkeypatch, caplog):
    exam = load_exam(config, workdir)
    every = tuple(range(exam.tokenizer.vocab_size))
    monkeypatch.setattr(exam.tokenizer, "stop_ids", every)  # whatever is written ends the answer
    monkeypatch.setattr(score, "load_exam", lambda *_: exam)
    with caplog.at_level(logging.WARNING):
        score.run(config, workdir)
    assert "full: all 7 answers are empty" in caplog.text
    found = result(workdir, "full")
    assert tuple(found["lengths"][name] for name in ("empty", "cut", "most")) == (7, 0, 0)
    assert found["metrics"]["share"]["value"] == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task", "tinny", "unknown task 'tinny'; did you mean 'tiny'? Expected one of gsm8k, "),
        ("source", "", "score.source: found nothing, expected the task's JSONL file"),
        ("source", "none.jsonl", "none.jsonl: cannot be read (No such file or directory)"),
        ("systems", ("ful",), "score.systems: unknown system 'ful'; did you mean 'full'?"),
        ("systems", ("scratch",), "found no baselines/scratch, expected it for system 'scratch'"),
        ("shots", -2, "score.shots: found -2, expected at least -1"),
        ("limit", -1, "score.limit: found -1, expected at least 0"),
        ("batch_size", 0, "score.batch_size: found 0, expected at least 1"),
        ("first_token", "none", "score.first_token: found 'none', expected one of"),
        ("dtype", "int8", "score.dtype is 'int8', expected one of float32, "),
        ("shots", 40, "test.jsonl, question 1, for full: "),
        ("max_new_tokens", 256, "new ones make "),
    ],
)
def test_bad_settings_are_refused_before_a_model_is_loaded(
    config, workdir, monkeypatch, key, value, message
):
    monkeypatch.setattr(score, "swap_models", lambda *_: pytest.fail("a model was loaded"))
    config.score[key] = value
    with pytest.raises(InputError) as error:
        score.run(config, workdir)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_malformed_row_and_an_empty_file_are_refused(config, workdir):
    write_rows(workdir, [{"task": "1 + 2", "answer": "3"}, {"task": "1 + 2"}], "test.jsonl")
    with pytest.raises(InputError, match=r"test\.jsonl:2: found no 'answer'"):
        score.run(config, workdir)
    (workdir / "test.jsonl").write_text("")
    with pytest.raises(InputError, match=r"test\.jsonl: found no rows"):
        score.run(config, workdir)


def test_a_system_of_another_full_model_is_refused(config, workdir, models):
    (workdir / "decoder").unlink()
    save_model(
        workdir / "decoder",
        models[1],
        tokenizer_source=models[0],
        origin=Origin(full="another", first_token="full", pruned=None),
    )
    with pytest.raises(InputError, match=r"score\.systems: two_stage does not fit; .*decoder"):
        score.run(config, workdir)
    config.score.systems = (FULL.name,)
    score.run(config, workdir)


RANKED = Benchmark(
    name="ranked",
    read=lambda path, shots: [
        dataclasses.replace(question, gold=0, choices=(" a", " b c", " d e"), group="")
        for question in read(path, shots)
    ],
    verdict=lambda question, found: {"acc": float(np.argmax(found) == question.gold)},
    shots=0,
    max_new_tokens=1,
)


def test_choices_are_ranked_and_a_stopped_run_goes_on(config, workdir, monkeypatch):
    monkeypatch.setitem(registry.BENCHMARKS, "ranked", RANKED)
    config.score.task = "ranked"
    score.run(config, workdir)
    path = workdir / "scores" / "ranked" / "full.jsonl"
    rows = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert len(rows) == QUESTIONS
    for row in rows.values():
        assert len(row["answer"]) == 3
        assert row["marks"] == {"acc": float(np.argmax(row["answer"]) == 0)}
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["lengths"] is None
    assert found["metrics"]["acc"]["value"] == np.mean([r["marks"]["acc"] for r in rows.values()])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    score.run(config, workdir)
    again = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert again.keys() == rows.keys()
    for name, row in rows.items():
        np.testing.assert_allclose(again[name]["answer"], row["answer"], atol=1e-4)


def test_other_choices_of_the_same_prompt_are_refused(config, workdir, monkeypatch):
    monkeypatch.setitem(registry.BENCHMARKS, "ranked", RANKED)
    config.score.task, config.score.systems, config.score.limit = "ranked", ("full",), 2
    score.run(config, workdir)
    turned = dataclasses.replace(
        RANKED,
        read=lambda path, shots: [
            dataclasses.replace(question, gold=2, choices=question.choices[::-1])
            for question in RANKED.read(path, shots)
        ],
    )
    monkeypatch.setitem(registry.BENCHMARKS, "ranked", turned)
    with pytest.raises(InputError, match=r"full\.jsonl: found other choices of question 1 than"):
        score.run(config, workdir)


def test_a_choice_beyond_the_models_limit_is_refused(config, workdir, monkeypatch):
    long = dataclasses.replace(
        RANKED,
        read=lambda path, shots: [
            dataclasses.replace(question, choices=(" a", " b c" * 300))
            for question in read(path, shots)
        ],
    )
    monkeypatch.setitem(registry.BENCHMARKS, "ranked", long)
    config.score.task = "ranked"
    with pytest.raises(InputError, match=r"question 1, for full: .* the model's limit is 256"):
        score.run(config, workdir)


def test_without_names_all_that_fit_are_scored(config, workdir):
    config.score.systems = ()
    config.score.limit = 2
    score.run(config, workdir)
    names = {path.stem for path in (workdir / "scores" / "tiny").glob("*.jsonl")}
    assert {FULL.name, TWO_STAGE.name, "decoder_alone", "pruned_untrained"} <= names
