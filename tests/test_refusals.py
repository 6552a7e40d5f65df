"""What stages refuse on a workdir that is whole but for one thing: by name, and without a trace."""

import json
import shutil

import pytest
import tokenizers

from overfill_jax.data.tokenizer_training import train_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.pruning import calibrate
from overfill_jax.stages import run_stage
from tests.builders import texts_of
from tests.small_run import SHAPE, make_config


@pytest.mark.parametrize(
    ("key", "value", "stage", "message"),
    [
        ("prune.hidden", -0.5, "prune", r"prune\.hidden: found ratio -0.5"),
        ("prune.intermediate", 64.0, "prune", r"prune\.intermediate: found width 64"),
        ("calibrate.statistic", "max", "calibrate", r"calibrate\.statistic: found 'max'"),
        ("calibrate.positions", "odd", "calibrate", r"calibrate\.positions: found 'odd'"),
        (
            "calibrate.source",
            "",
            "calibrate",
            r"calibrate\.source: found nothing, expected a \.txt",
        ),
        ("calibrate.source", "nowhere.txt", "calibrate", r"nowhere\.txt"),
        ("train.source", "nowhere.jsonl", "train", r"nowhere\.jsonl"),
        ("train.accumulation", 3, "train", r"train\.batch_size: found 8, expected a multiple of 3"),
        ("train.steps", -5, "train", r"train\.steps: found -5, expected at least 0"),
        ("train.epochs", 0, "train", r"train\.epochs: found 0, expected at least 1"),
        ("train.clip_norm", 0.0, "train", r"train\.clip_norm: found 0.0, expected more than 0"),
        ("train.beta2", 2.0, "train", r"train\.beta2: found 2.0, expected less than 1"),
        ("train.learning_rate", float("nan"), "train", r"train\.learning_rate: found nan"),
        ("train.epsilon", 0.0, "train", r"train\.epsilon: found 0.0, expected more than 0"),
        (
            "train.prompt_slots",
            64,
            "train",
            r"train\.prompt_slots: found 64 without train\.packing",
        ),
        ("train.dtype", "fp32", "train", r"train\.dtype is 'fp32', expected one of"),
        ("train.source", "", "train", r"train\.source: found nothing"),
        ("mesh.data", 3, "train", r"mesh: found data 3, .* does not fit 1 devices"),
        ("train.batch_size", 800, "train", r"found 150 rows .* at least one batch of 800"),
        ("train.remat", "some", "train", r"train\.remat: found 'some'"),
        ("train.validation_rows", 0, "train", r"train\.validation_rows: found 0"),
        ("train.validation", "", "train", r"train\.validation_rows: .* found 150 usable examples"),
        ("data.test_rows", 0, "data", r"data\.test_rows: found 0"),
        ("init.dtype", "fp32", "init", r"init\.dtype is 'fp32', expected one of float32"),
        ("calibrate.dtype", "fp32", "calibrate", r"calibrate\.dtype is 'fp32'"),
        (
            "init.tokenizer",
            "",
            "init",
            r"init\.tokenizer: found nothing, expected a folder or file",
        ),
        ("init.config", "", "init", r"init\.config: found nothing, expected a config\.json"),
    ],
)
def test_settings_that_do_not_work_are_refused(copy, key, value, stage, message):
    config = make_config(copy)
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(InputError, match=message):
        run_stage(stage, config, copy)


def test_a_refused_run_leaves_no_config(copy):
    before = (copy / "configs/train.two_stage.yaml").read_text()
    config = make_config(copy)
    config.train.learning_rate = 0.5
    with pytest.raises(InputError):
        run_stage("train", config, copy)
    assert (copy / "configs/train.two_stage.yaml").read_text() == before
    config.seed = -1
    with pytest.raises(InputError, match="seed: found -1"):
        run_stage("data", config, copy)


def test_a_stage_whose_config_could_not_be_written_does_not_begin(tmp_path):
    (tmp_path / "configs").write_text("in the way")
    with pytest.raises(InputError, match=r"data\.yaml: cannot be written"):
        run_stage("data", make_config(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_what_is_in_the_way_of_calibration_shows_before_it(copy, monkeypatch):
    monkeypatch.setattr(calibrate, "load_model", lambda *_: pytest.fail("a model was loaded"))
    (copy / "importance.npz").unlink()
    (copy / "importance.npz").mkdir()
    with pytest.raises(InputError, match=r"importance\.npz: found a folder"):
        run_stage("calibrate", make_config(copy), copy)


def test_a_tokenizer_larger_than_the_embedding_is_refused(copy):
    small = {**SHAPE, "vocab_size": 200}
    (copy / "shape.json").write_text(json.dumps(small))
    found = "ids up to 255, but the embedding has only 200 rows"
    with pytest.raises(InputError, match=f"tokenizer: .*{found}"):
        run_stage("init", make_config(copy), copy)
    rows = (copy / "data/train.jsonl").read_text().splitlines()
    train_tokenizer(texts_of(map(json.loads, rows)), 270, copy / "full")
    for stage in ("calibrate", "train"):
        with pytest.raises(InputError, match=r"full: .* ids up to 269, .* has only 256 rows"):
            run_stage(stage, make_config(copy), copy)


def test_a_tokenizer_without_a_stop_token_is_refused(copy):
    config, file = make_config(copy), copy / "stopless/tokenizer.json"
    file.parent.mkdir()
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(file))
    config.init.tokenizer = str(file.parent)
    expected = r"names no token that ends an answer, expected eos_token in tokenizer_config\.json"
    with pytest.raises(InputError, match=f"stopless: the tokenizer {expected}"):
        run_stage("init", config, copy)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (copy / "full" / name).unlink()
    shutil.copy(file, copy / "full")
    with pytest.raises(InputError, match=f"full: the tokenizer {expected}"):
        run_stage("train", config, copy)


def test_a_decoder_answers_as_it_was_trained_and_for_its_full_model_alone(copy):
    config = make_config(copy)
    config.generate.first_token = "decoder"
    with pytest.raises(InputError, match="trained with first_token 'full', found 'decoder'"):
        run_stage("generate", config, copy)
    config = make_config(copy)
    config.seed = 5
    run_stage("init", config, copy)
    for stage, message in (("generate", "trained behind another"), ("train", "made from another")):
        with pytest.raises(InputError, match=message):
            run_stage(stage, make_config(copy), copy)


def test_a_half_written_model_is_refused(copy):
    shutil.rmtree(copy / "full/params")
    with pytest.raises(InputError, match="full"):
        run_stage("calibrate", make_config(copy), copy)


def test_another_full_model_makes_the_importance_stale(copy):
    config = make_config(copy)
    config.seed = 5
    run_stage("init", config, copy)
    with pytest.raises(InputError, match="importance of another model: fingerprint"):
        run_stage("prune", make_config(copy), copy)
