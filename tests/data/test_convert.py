"""The convert stage looks at the tokenizer before it copies anything."""

import json
import logging
import shutil

import ml_collections
import pytest

from overfill_jax.data import convert
from overfill_jax.errors import InputError
from overfill_jax.weights.folders import load_model
from tests.conftest import REPOSITORY
from tests.weights.conftest import MODELS

QUICKSTART = REPOSITORY / "launch" / "quickstart_model"


def config(source, dtype="float32"):
    return ml_collections.ConfigDict({"convert": {"source": str(source), "dtype": dtype}})


@pytest.fixture
def source(tmp_path):
    """A model whose tokenizer is as large as its embedding."""
    return shutil.copytree(QUICKSTART, tmp_path / "source")


def test_a_model_with_its_tokenizer(source, tmp_path):
    convert.run(config(source), tmp_path)
    assert (tmp_path / "full" / "tokenizer.model").exists()


def test_dtype_of_the_workdir(tmp_path):
    convert.run(config(MODELS / "qwen2", "bfloat16"), tmp_path)
    assert load_model(tmp_path / "full").config.dtype == "bfloat16"
    with pytest.raises(InputError, match=r"convert\.dtype is 'fp32', expected one of"):
        convert.run(config(MODELS / "qwen2", "fp32"), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", "garbage", r"tokenizer\.model: not a sentencepiece model"),
        ("tokenizer.json", "{}", r"tokenizer\.json: not a Hugging Face tokenizer"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: found list, expected an object"),
        ("generation_config.json", "[]", r"generation_config\.json: found list, expected an obj"),
        ("chat_template.jinja", "{% if %}", r"chat_template\.jinja: the chat template is not val"),
    ],
)
def test_a_broken_tokenizer_is_refused(source, tmp_path, name, content, message):
    (source / name).write_text(content)
    with pytest.raises(InputError, match=message):
        convert.run(config(source), tmp_path)
    assert not (tmp_path / "full").exists()


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    source = shutil.copytree(MODELS / "qwen2", tmp_path / "source")
    shutil.copy(QUICKSTART / "tokenizer.model", source)
    with pytest.raises(InputError, match=r"source: .* ids up to 255, .* has only 48 rows"):
        convert.run(config(source), tmp_path)
    assert not (tmp_path / "full").exists()


def test_weights_alone_are_converted_and_it_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        convert.run(config(MODELS / "qwen2"), tmp_path)
    assert "qwen2: no tokenizer, which all stages that read text" in caplog.messages[0]
    written = json.loads((tmp_path / "full" / "generation_config.json").read_text())
    assert written["eos_token_id"] == 2


def test_the_source_is_never_replaced(source, tmp_path):
    full = source.rename(tmp_path / "full")
    with pytest.raises(InputError, match="full: holds the source"):
        convert.run(config(full), tmp_path)
    assert (full / "model.safetensors").exists()


def test_no_source(tmp_path):
    with pytest.raises(InputError, match=r"convert\.source is empty"):
        convert.run(config(""), tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        convert.run(config(tmp_path / "nowhere"), tmp_path)
    assert list(tmp_path.iterdir()) == []
