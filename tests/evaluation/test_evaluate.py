import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.default import get_config
from overfill_jax.data.tokenizer_training import train_tokenizer
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.evaluation import evaluate
from overfill_jax.evaluation.systems import FULL, SYSTEMS, System
from overfill_jax.evaluation.task import load_task
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.size import dimensions
from overfill_jax.model.transformer import Model, abstract, hidden_states, unembed
from overfill_jax.weights.folders import load_config, load_fingerprint, save_model
from overfill_jax.weights.origin import Origin
from tests.builders import CONFIG, texts_of

FAMILIES = ("sort", "sum")
ALONE = make_mesh(1, 1, 1, jax.devices()[:1])


def make_rows(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        letters, (one, two) = rng.permutation(list("abcde")), rng.integers(100, size=2)
        task, answer = f"sort: {' '.join(letters)}", "a b c d e"
        rows.append({"prompt": task, "response": answer, "family": "sort"})
        rows.append({"prompt": f"{one} + {two}", "response": f"{one + two}", "family": "sum"})
    return rows


def make_model(seed: int, **changes) -> Model:
    # Drawn by numpy: compiling an initialisation takes longer than all else here.
    rng = np.random.default_rng(seed)
    shapes = abstract(dataclasses.replace(CONFIG, max_position=256, **changes), "float32")
    return jax.tree.map(lambda x: jnp.asarray(0.8 * rng.normal(size=x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir with a full model, its exact copy as decoder, and a smaller one as pruned."""
    workdir = tmp_path_factory.mktemp("workdir")
    train_tokenizer(texts_of(make_rows(50)), 36, workdir)
    vocab_size = load_tokenizer(workdir).vocab_size
    full = make_model(0, vocab_size=vocab_size)
    pruned = make_model(1, vocab_size=vocab_size, hidden_size=16)
    for folder, model in (("full", full), ("decoder", full), ("pruned", pruned)):
        save_model(workdir / folder, model, tokenizer_source=workdir)
    lines = [json.dumps(row) for row in make_rows(4)] + ['{"prompt": "no answer"}']
    (workdir / "test.jsonl").write_text("\n".join(lines) + "\n")
    return workdir, full, pruned


def make_config(workdir):
    config = get_config()
    with config.unlocked():
        config.evaluate.first_token = "full"
    config.evaluate.source = str(workdir / "test.jsonl")
    config.evaluate.batch_size = 3  # of eight rows: the last batch is not full
    config.evaluate.max_new_tokens = 8
    return config


@pytest.fixture
def config(made):
    return make_config(made[0])


@pytest.fixture
def task(config, made):
    return load_task(config, made[0])[0]


@pytest.fixture(scope="module")
def finished(made):
    """The stage has run once."""
    evaluate.run(make_config(made[0]), made[0])
    return made[0]


def read_result(workdir, name: str) -> dict:
    return json.loads((workdir / "results" / f"{name}.json").read_text())


def read_verdicts(workdir, name: str) -> list[dict]:
    lines = (workdir / "results" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_system_of_the_workdir_has_a_result(finished):
    names = {"full", "two_stage", "decoder_alone", "pruned_untrained"}
    names.add("pruned_two_stage_untrained")
    assert {path.stem for path in (finished / "results").iterdir()} == names
    result = read_result(finished, "pruned_untrained")
    assert result["settings"]["rows"] == 8
    assert result["settings"]["rejected"] == 1
    assert list(result["families"]) == list(FAMILIES)
    assert result["decode_bytes"] == 4 * result["decode_parameters"]
    for part, folder in (("reader", "full"), ("writer", "decoder")):
        shape = dimensions(load_config(finished / folder))
        assert read_result(finished, "two_stage")["shapes"][part] == shape
    assert result["decode_parameters"] < read_result(finished, "full")["decode_parameters"]
    assert result["seconds"].keys() == {"loading", "loss", "answers"}
    verdicts = read_verdicts(finished, "pruned_untrained")
    assert result["lengths"]["mean"] == np.mean([v["tokens"] for v in verdicts])
    assert result["lengths"]["cut"] == sum(v["reason"] == "length" for v in verdicts)


def test_report_names_systems_and_rejected_rows(finished):
    text = (finished / "report" / "report.md").read_text()
    for title in ("full", "two-stage", "decoder alone", "pruned, untrained"):
        assert f"| {title} |" in text
    assert "- line 9: no 'response'" in text
    assert text.count("### Line") == get_config().evaluate.samples


def test_every_prompt_and_answer_is_kept(finished):
    sources = [json.loads(line) for line in (finished / "test.jsonl").read_text().splitlines()]
    verdicts = read_verdicts(finished, "full")
    assert [v["row"] for v in verdicts] == list(range(1, 9))
    for verdict, source in zip(verdicts, sources, strict=False):
        assert verdict["reference"] == source["response"]
        assert source["prompt"] in verdict["prompt"]
        assert verdict["family"] == source["family"]


def test_two_stage_with_an_unpruned_decoder_is_the_full_model(finished):
    full = read_result(finished, "full")
    for name in ("two_stage", "decoder_alone"):
        found = read_result(finished, name)
        assert found["loss"]["total"]["loss"] == pytest.approx(
            full["loss"]["total"]["loss"], rel=1e-5
        )
        assert read_verdicts(finished, name) == read_verdicts(finished, "full")


def test_untrained_pruned_model_differs_behind_the_full_cache(finished):
    alone = read_result(finished, "pruned_untrained")["loss"]["positions"]
    behind = read_result(finished, "pruned_two_stage_untrained")["loss"]["positions"]
    full = read_result(finished, "full")["loss"]["positions"]
    assert behind[0] == pytest.approx(
        full[0], rel=1e-5
    )  # the first answer token is the full model's
    assert behind[1]["loss"] != pytest.approx(full[1]["loss"], rel=1e-3)
    assert behind[1]["loss"] != pytest.approx(alone[1]["loss"], rel=1e-3)


def test_missing_systems_are_skipped_and_said(config, made, caplog, tmp_path, capsys):
    (tmp_path / "full").symlink_to(made[0] / "full")
    config.evaluate.rows = 2
    with caplog.at_level(logging.INFO, logger="absl"):
        evaluate.run(config, tmp_path)
    said = "\n".join(caplog.messages)
    assert "two-stage: skipped, the workdir has no decoder" in said
    assert "pruned, tuned: skipped, the workdir has no baselines/pruned_tuned" in said
    assert said.count("skipped") == len(SYSTEMS) - 1
    table = capsys.readouterr().out
    assert "system  decode params  bytes/token" in table
    assert "\nfull " in table and "two-stage" not in table
    assert read_result(tmp_path, "full")["settings"]["rows"] == 2


@jax.jit
def next_log_probabilities(model, tokens):
    """Log-probabilities of what follows each token, by one forward pass without a cache."""
    hidden, _, _ = hidden_states(model, tokens, jnp.arange(tokens.size)[None], tokens * 0 + 1)
    return jax.nn.log_softmax(unembed(model, hidden))[0]


def test_log_likelihoods_equal_a_forward_pass_of_each_row_alone(made, task):
    full = made[1]
    found = evaluate.log_likelihoods("full", full, full, task)
    assert len(found) == 8
    for row, example in enumerate(task.examples):
        begin, end = len(example.prompt), len(example.prompt) + len(example.answer)
        tokens = np.zeros((1, 32), np.int32)  # what lies behind the answer does not reach it
        tokens[0, :end] = np.concatenate([example.prompt, example.answer])
        log_probabilities = next_log_probabilities(full, tokens)
        expected = log_probabilities[np.arange(begin, end) - 1, example.answer]
        np.testing.assert_allclose(found[row, : end - begin], expected, atol=2e-5)
        assert not found[row, end - begin :].any()


def test_the_decoder_may_give_the_first_token(finished, made, task):
    full = made[1]
    twin = dataclasses.replace(full, params=jax.tree.map(jnp.copy, full.params))
    task = dataclasses.replace(task, first_token="decoder")
    likelihoods = evaluate.log_likelihoods("twin", full, twin, task)
    loss = read_result(finished, "full")["loss"]["total"]
    assert -likelihoods.sum() / loss["tokens"] == pytest.approx(loss["loss"], rel=1e-5)


def test_answers_are_judged(made, task):
    right = [evaluate.Answer([], f" {e.reference}\n", "stop") for e in task.examples]
    wrong = dataclasses.replace(right[0], text="something else", tokens=[1, 2, 3])
    verdicts = evaluate.judge([wrong, *right[1:]], task)
    assert [v.correct for v in verdicts] == [False] + [True] * 7
    assert [v.tokens for v in verdicts] == [3] + [0] * 7


def test_only_the_full_model_stays_in_memory(made):
    models = {}
    evaluate.swap_models(models, FULL, made[0], "float32", ALONE)
    full = models["full"]
    for reader, writer, kept in [
        ("full", "decoder", {"full", "decoder"}),
        ("pruned", "pruned", {"full", "pruned"}),
        ("full", "full", {"full"}),
    ]:
        evaluate.swap_models(models, System("", "", reader, writer), made[0], "float32", ALONE)
        assert models.keys() == kept
        assert models["full"] is full


def test_evaluation_runs_in_its_dtype(made):
    models = {}
    evaluate.swap_models(models, FULL, made[0], "bfloat16", ALONE)
    assert models["full"].config.dtype == "bfloat16"
    assert models["full"].params["final_norm"]["scale"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": ""}, "evaluate.source: found nothing, expected a JSONL file"),
        ({"match": "exact"}, "evaluate.match: found 'exact'"),
        ({"batch_size": 0}, "evaluate.batch_size: found 0, expected at least 1"),
        ({"first_token": "both"}, "evaluate.first_token: found 'both'"),
        ({"rows": -1}, "evaluate.rows: found -1, expected at least 0"),
        ({"match": "number"}, r"test\.jsonl:1: the answer holds no number"),
    ],
)
def test_bad_settings(config, made, changes, message):
    config.evaluate.update(changes)
    with pytest.raises(InputError, match=message):
        load_task(config, made[0])


@pytest.mark.parametrize("text", ["", '{"prompt": "no answer"}\n'])
def test_source_without_a_usable_row(config, made, tmp_path, text):
    config.evaluate.source = str(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"rows\.jsonl: no usable row"):
        evaluate.run(config, made[0])


def test_every_prompt_is_checked_before_the_first_loss(config, made, monkeypatch):
    monkeypatch.setattr(evaluate, "swap_models", lambda *_: pytest.fail("a model was loaded"))
    config.evaluate.max_new_tokens = 250
    with pytest.raises(InputError, match=r"test\.jsonl, line 1, for full: .* limit is 256"):
        evaluate.run(config, made[0])


@pytest.mark.parametrize("name", ["results", "report", "report/loss.png", "results/full.json"])
def test_what_is_in_the_way_shows_before_the_first_loss(config, made, tmp_path, monkeypatch, name):
    monkeypatch.setattr(evaluate, "swap_models", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "full").symlink_to(made[0] / "full")
    if "/" in name:
        (tmp_path / name).mkdir(parents=True)
    else:
        (tmp_path / name).write_text("in the way")
    with pytest.raises(InputError, match=f"{name}.*: (cannot be written|found a folder)"):
        evaluate.run(config, tmp_path)


def test_a_decoder_of_another_model_leaves_nothing_to_compare(config, made, tmp_path):
    shutil.copytree(made[0] / "full", tmp_path / "full")
    save_model(tmp_path / "decoder", made[2], made[0], Origin("0123", "full"))
    with pytest.raises(InputError, match=r"no system .*decoder: trained behind another full"):
        evaluate.run(config, tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_system_of_another_training_does_not_block_the_others(config, made, tmp_path, caplog):
    shutil.copytree(made[0] / "full", tmp_path / "full")
    origin = Origin(load_fingerprint(tmp_path / "full"), "decoder")
    save_model(tmp_path / "decoder", made[2], made[0], origin)
    config.evaluate.rows = 2
    with caplog.at_level(logging.WARNING, logger="absl"):
        evaluate.run(config, tmp_path)
    assert "two-stage: left out; " in caplog.text
    assert "trained with first_token 'decoder', found 'full'" in caplog.text
    assert {path.stem for path in (tmp_path / "results").iterdir()} == {"full", "decoder_alone"}


def test_a_tokenizer_larger_than_the_embedding(config, made, tmp_path):
    save_model(tmp_path / "full", make_model(0, vocab_size=20), tokenizer_source=made[0])
    with pytest.raises(InputError, match=r"full: .* the embedding has only 20 rows"):
        load_task(config, tmp_path)


def test_workdir_without_a_full_model(config, tmp_path):
    with pytest.raises(InputError, match="full: no such folder"):
        evaluate.run(config, tmp_path)
    assert not list(tmp_path.iterdir())
