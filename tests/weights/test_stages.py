"""The two stages, from a Hugging Face folder to a workdir and back."""

import json
import shutil

import jax
import ml_collections
import numpy as np
import pytest

from overfill_jax.data import convert
from overfill_jax.errors import InputError
from overfill_jax.weights import export
from overfill_jax.weights.folders import load_model, save_model
from tests.builders import random_model
from tests.weights.conftest import MODELS


def config(source, dtype="float32", model="full", allow=False):
    return ml_collections.ConfigDict(
        {
            "convert": {"source": str(source), "dtype": dtype},
            "export": {
                "model": model,
                "target": "hf",
                "allow_illegal_widths": allow,
                "shard_bytes": 10**9,
            },
        }
    )


def test_there_and_back(golden, tmp_path):
    convert.run(config(golden), tmp_path)
    export.run(config(golden), tmp_path)
    one, other = load_model(golden), load_model(tmp_path / "hf")
    assert one.config == other.config
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
    # The ids of the special tokens were in config.json only.
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"]) == (1, 2)


def test_the_source_is_never_replaced(tmp_path):
    source = shutil.copytree(MODELS / "qwen2", tmp_path / "full")
    with pytest.raises(InputError, match="full: holds the source"):
        convert.run(config(source), tmp_path)
    for target, message in (("other", "holds other files"), ("full", "holds the source")):
        shutil.copytree(MODELS / "qwen2", tmp_path / "other", dirs_exist_ok=True)
        settings = config("", model="full")
        settings.export.target = target
        with pytest.raises(InputError, match=message):
            export.run(settings, tmp_path)
    assert (source / "model.safetensors").exists()
    assert (tmp_path / "other" / "model.safetensors").exists()


def test_an_export_is_replaced_by_the_next(tmp_path):
    convert.run(config(MODELS / "qwen2"), tmp_path)
    export.run(config(""), tmp_path)
    (tmp_path / "hf" / "stale").touch()
    export.run(config(""), tmp_path)
    assert not (tmp_path / "hf" / "stale").exists()
    settings = config("")
    settings.export.target = "full"
    with pytest.raises(InputError, match="full: holds the source"):
        export.run(settings, tmp_path)


def test_dtype_of_the_workdir(tmp_path):
    convert.run(config(MODELS / "qwen2", "bfloat16"), tmp_path)
    model = load_model(tmp_path / "full")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {"bfloat16"}


def test_no_source_and_no_model(tmp_path):
    with pytest.raises(InputError, match=r"convert\.source is empty"):
        convert.run(config(""), tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        convert.run(config(tmp_path / "nowhere"), tmp_path)
    with pytest.raises(InputError, match="decoder: no such folder"):
        export.run(config("", model="decoder"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_illegal_width(tmp_path):
    changes = {"model_type": "llama", "hidden_size": 26, "qkv_bias": False, "qk_norm": False}
    save_model(tmp_path / "decoder", random_model(**changes), None)
    with pytest.raises(InputError, match="hidden_size 26 is not a multiple of the 4 heads"):
        export.run(config("", model="decoder"), tmp_path)
    assert not (tmp_path / "hf").exists()
    export.run(config("", model="decoder", allow=True), tmp_path)
    assert load_model(tmp_path / "hf").config.hidden_size == 26
