"""Tokenizer files on their way, and the ids that two files may hold."""

import json

import pytest

from overfill_jax.errors import InputError
from overfill_jax.weights.tokenizer_files import copy_tokenizer, read_token_ids


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 3, "pad_token_id": None}, None, {"eos_token_id": 3}),
        ({}, {"eos_token_id": [3, 4]}, {"eos_token_id": [3, 4]}),
        (
            {"eos_token_id": [2, 5], "bos_token_id": 1},
            {"temperature": 0.6},
            {"temperature": 0.6, "eos_token_id": [2, 5], "bos_token_id": 1},
        ),
        (
            {"eos_token_id": 2, "pad_token_id": 7},
            {"eos_token_id": [5, 2], "pad_token_id": 8},
            {"eos_token_id": [5, 2], "pad_token_id": 8},
        ),
        (
            {"eos_token_id": [2, 5]},
            {"eos_token_id": 4, "top_p": 0.9},
            {"eos_token_id": [4, 2, 5], "top_p": 0.9},
        ),
    ],
)
def test_both_files_are_merged(source, tmp_path, config, generation, expected):
    (source / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (source / "generation_config.json").write_text(json.dumps(generation))
    target = tmp_path / "target"
    target.mkdir()
    copy_tokenizer(source, target)
    assert json.loads((target / "generation_config.json").read_text()) == expected


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_what_is_no_object_is_named(source, name):
    (source / name).write_text("[]")
    with pytest.raises(InputError, match=rf"{name}: found a JSON list, expected an object"):
        read_token_ids(source)
