"""Folders of our own: what is saved comes back, what is broken is named, models are recognised."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from overfill_jax.errors import InputError
from overfill_jax.model.config import Rope
from overfill_jax.model.handoff import Handoff
from overfill_jax.weights.folders import (
    check_pair,
    fingerprint,
    load_config,
    load_fingerprint,
    load_model,
    load_origin,
    save_model,
)
from overfill_jax.weights.hugging_face_config import from_hugging_face
from overfill_jax.weights.origin import Origin
from tests.builders import random_model
from tests.weights.conftest import MODELS

ROPE = Rope(5e5, "llama3", 8.0, 1.0, 4.0, 32)


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "full", random_model(rope=ROPE), None)
    return tmp_path / "full"


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_saved_comes_back(saved):
    model, loaded = random_model(rope=ROPE), load_model(saved)
    assert loaded.config == model.config == load_config(saved)
    assert jax.tree.structure(loaded) == jax.tree.structure(model)
    assert equal(loaded, model)


def test_a_handoff_goes_along(tmp_path):
    handoff = Handoff((0, 2), ((1,), (0,)))
    shape = {"num_layers": 2, "num_kv_heads": 1, "num_heads": 2, "handoff": handoff}
    model = random_model(**shape)
    save_model(tmp_path / "decoder", model, None)
    assert load_config(tmp_path / "decoder").handoff == handoff
    assert load_model(tmp_path / "decoder").config == model.config
    other = dataclasses.replace(model.config, handoff=Handoff((0, 1), ((1,), (0,))))
    assert fingerprint(model) != fingerprint(dataclasses.replace(model, config=other))


def test_a_model_without_a_handoff_is_saved_as_it_always_was(saved):
    assert "handoff" not in json.loads((saved / "config.json").read_text())["model"]


def test_parameters_keep_their_dtype_apart_from_the_computation(tmp_path):
    model = random_model(dtype="bfloat16")
    save_model(tmp_path / "decoder", model, None)
    loaded = load_model(tmp_path / "decoder")
    assert loaded.config.dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}


def test_dtype_casts(saved):
    loaded = load_model(saved, "bfloat16")
    assert loaded.config.dtype == "bfloat16"
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_model(rope=ROPE))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("bfloat16")}
    assert equal(loaded.params, expected.params)


def test_other_dtypes_are_refused(saved):
    with pytest.raises(InputError, match="dtype is 'int8', expected one of float32"):
        load_model(saved, "int8")


def test_shardings_are_obeyed(saved):
    sharding = NamedSharding(jax.make_mesh((1,), ("model",)), PartitionSpec())
    shardings = jax.tree.map(lambda _: sharding, random_model().params)
    loaded = load_model(saved, shardings=shardings)
    assert {leaf.sharding for leaf in jax.tree.leaves(loaded)} == {sharding}


def test_ours_is_never_taken_for_hugging_face(saved):
    with pytest.raises(InputError, match="model_type is missing"):
        source = json.loads((saved / "config.json").read_text())
        from_hugging_face(source, "config.json")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "full: no such folder, expected one with a model"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: shutil.rmtree(folder / "params"), "params: no such folder"),
        (lambda folder: (folder / "params/state/manifest.ocdbt").unlink(), "params: "),
        (lambda folder: (folder / "params/state/_METADATA").unlink(), "params: not a checkpoint"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "expected an object"),
        (lambda folder: (folder / "config.json").write_text('{"format": "x"}'), "format is not"),
        (lambda folder: change(folder, depth=4), "the fields are not those of a model"),
        (lambda folder: change(folder, num_kv_heads=3), "not a multiple of num_kv_heads 3"),
        (lambda folder: change(folder, handoff=[0]), "the fields are not those of a model"),
        (lambda folder: change(folder, handoff={"layers": [0]}), "the fields are not those"),
        (
            lambda folder: change(folder, handoff={"layers": [0.5], "kv_heads": [[0]]}),
            r"handoff is not understood: found \[\[0.5\], \[0\]\], expected whole numbers",
        ),
        (
            lambda folder: change(folder, handoff={"layers": [0], "kv_heads": [[0]]}),
            r"handoff is of 1 layers with \[1\] kv heads, expected 3 with 2 each",
        ),
        (
            lambda folder: change(folder, intermediate_size=41),
            r"layers/mlp/\w+/kernel has shape .*, expected ",
        ),
        (lambda folder: change(folder, qk_norm=False), "unexpected array .*key_norm/scale"),
    ],
)
def test_broken_folders_are_named(saved, break_it, message):
    break_it(saved)
    with pytest.raises(InputError, match=message):
        load_model(saved)


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model": config["model"] | fields}))


def test_a_missing_array_is_named(saved):
    change(saved, tied_embeddings=True)
    with pytest.raises(InputError, match="unexpected array unembed/kernel"):
        load_model(saved)
    save_model(saved, random_model(tied_embeddings=True, rope=ROPE), None)
    change(saved, tied_embeddings=False)
    with pytest.raises(InputError, match=r"array unembed/kernel is missing, expected \(24, 41\)"):
        load_model(saved)


def test_save_replaces_models_only(saved, tmp_path):
    other = random_model(7)
    save_model(saved, other, None)
    assert equal(load_model(saved), other)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        save_model(tmp_path, other, None)
    with pytest.raises(InputError, match="expected a folder"):
        save_model(tmp_path / "notes.txt", other, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "notes.txt"]


def test_tokenizer_source_must_exist(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a folder, .model or .json"):
        save_model(tmp_path / "full", random_model(), tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_may_be_one_file(tmp_path):
    (tmp_path / "llama2.model").write_bytes(b"pieces")
    target = tmp_path / "full"
    save_model(target, random_model(), tmp_path / "llama2.model")
    assert (target / "tokenizer.model").read_bytes() == b"pieces"


def test_a_model_of_hugging_face_is_not_replaced(tmp_path):
    source = shutil.copytree(MODELS / "qwen3", tmp_path / "full")
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(InputError, match=r"full: holds other files, .* 'overfill_jax model 1'"):
        save_model(source, random_model(), None)
    with pytest.raises(InputError, match="holds the source"):
        save_model(source, random_model(), source)
    with pytest.raises(InputError, match="holds the source"):
        save_model(tmp_path, random_model(), source)
    assert sorted(path.name for path in source.iterdir()) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    model = random_model()
    layers = model.params["layers"]
    kernel = layers["mlp"]["up"]["kernel"].at[1, 20, 7].set(value)
    params = model.params | {"layers": layers | {"mlp": layers["mlp"] | {"up": {"kernel": kernel}}}}
    save_model(tmp_path / "full", dataclasses.replace(model, params=params), None)
    with pytest.raises(InputError, match="layers/mlp/up/kernel holds NaN or Inf"):
        load_model(tmp_path / "full")


def test_a_decoder_says_what_it_belongs_to(saved, tmp_path):
    assert load_fingerprint(saved) == fingerprint(load_model(saved, "bfloat16"))
    assert load_origin(saved) is None
    assert (load_fingerprint(MODELS / "qwen3"), load_origin(MODELS / "qwen3")) == (None, None)
    origin = Origin(load_fingerprint(saved), "decoder")
    save_model(tmp_path / "decoder", random_model(1), None, origin)
    assert load_origin(tmp_path / "decoder") == origin
    change_origin(tmp_path / "decoder", [1])
    with pytest.raises(InputError, match=r"config\.json: origin is not understood"):
        load_origin(tmp_path / "decoder")


def change_origin(folder, origin):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"origin": origin}))


def test_pairs_that_were_not_made_for_each_other(saved, tmp_path):
    other, decoder, pruned = tmp_path / "other", tmp_path / "decoder", tmp_path / "pruned"
    save_model(other, random_model(7), None)
    save_model(decoder, random_model(1), None, Origin(load_fingerprint(saved), "decoder"))
    save_model(pruned, random_model(1), None, Origin(load_fingerprint(saved), None))
    check_pair(saved, decoder, "decoder")
    check_pair(saved, pruned, "full")
    check_pair(saved, pruned, "decoder")
    check_pair(decoder, decoder, "full")  # alone
    check_pair(MODELS / "qwen3", decoder, "decoder")  # a folder that records nothing
    check_pair(saved, other, "full")
    with pytest.raises(InputError, match="trained with first_token 'decoder', found 'full'"):
        check_pair(saved, decoder, "full")
    with pytest.raises(InputError, match=r"decoder: trained behind another full model: finger"):
        check_pair(other, decoder, "decoder")
    with pytest.raises(InputError, match=r"pruned: made from another full model: fingerprint "):
        check_pair(other, pruned, "decoder")


def test_fingerprint_is_of_the_weights_not_of_their_dtype(golden):
    whole, half = load_model(golden), load_model(golden, "bfloat16")
    assert fingerprint(whole) == fingerprint(half) == fingerprint(load_model(golden))


def test_fingerprint_sees_every_array_and_the_shape():
    model = random_model()
    seen = {fingerprint(model)}
    leaves, structure = jax.tree.flatten(model)
    for number, leaf in enumerate(leaves):
        changed = [*leaves]
        changed[number] = jnp.asarray(np.asarray(leaf) + np.eye(1, leaf.size).reshape(leaf.shape))
        seen.add(fingerprint(jax.tree.unflatten(structure, changed)))
    config = dataclasses.replace(model.config, norm_epsilon=1e-6)
    seen.add(fingerprint(dataclasses.replace(model, config=config)))
    assert len(seen) == len(leaves) + 2


def test_fingerprint_samples_large_arrays_everywhere():
    model = random_model(vocab_size=3000)
    table = model.params["embed"]["embedding"]
    params = model.params | {"embed": {"embedding": table.at[:, 5].set(0.0)}}
    assert fingerprint(model) != fingerprint(dataclasses.replace(model, params=params))


def test_hugging_face_folders_are_read_as_well():
    folder = MODELS / "qwen3"
    assert load_model(folder).config == load_config(folder)
