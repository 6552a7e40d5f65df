"""Import: logits equal transformers', memory stays low, and broken folders are named."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from overfill_jax.errors import InputError
from overfill_jax.model.transformer import abstract
from overfill_jax.weights import hugging_face_import
from overfill_jax.weights.folders import load_model
from tests.weights.conftest import MODELS, logits


def test_logits_equal_transformers(golden):
    expected = np.load(golden / "golden.npz")
    found = logits(load_model(golden), jnp.asarray(expected["tokens"]))
    np.testing.assert_allclose(found, expected["logits"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama3.1", "llama-linear"])
def test_the_golden_logits_see_rope_scaling(name, tmp_path):
    config = json.loads((MODELS / name / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))
    (tmp_path / "model.safetensors").symlink_to(MODELS / name / "model.safetensors")
    expected = np.load(MODELS / name / "golden.npz")
    found = logits(load_model(tmp_path), jnp.asarray(expected["tokens"]))
    assert np.abs(found - expected["logits"]).max() > 0.1


def test_tree_is_the_one_that_the_model_declares(golden):
    model = load_model(golden)
    declared = abstract(model.config, "float32")
    assert jax.tree.structure(model) == jax.tree.structure(declared)
    assert jax.tree.map(jnp.shape, model) == jax.tree.map(jnp.shape, declared)


def test_dtype_is_cast_on_the_way(golden):
    whole, half = load_model(golden), load_model(golden, "bfloat16")
    assert (whole.config.dtype, half.config.dtype) == ("float32", "bfloat16")
    for wide, narrow in zip(jax.tree.leaves(whole), jax.tree.leaves(half), strict=True):
        assert narrow.dtype == jnp.bfloat16
        np.testing.assert_array_equal(wide.astype(jnp.bfloat16), narrow)


def test_bfloat16_files_keep_their_dtype(broken):
    rewrite(broken, lambda tensors: {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()})
    model = load_model(broken)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    assert model.config.dtype == "bfloat16"


def test_arrays_are_taken_over_without_a_copy(monkeypatch):
    allocated = []

    def aligned(shape, dtype):
        allocated.append(original(shape, dtype))
        return allocated[-1]

    original = hugging_face_import._aligned
    monkeypatch.setattr(hugging_face_import, "_aligned", aligned)
    model = load_model(MODELS / "llama3.1")
    if jax.default_backend() != "cpu":
        pytest.skip("the device has memory of its own")
    ours = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(model)}
    assert ours == {array.ctypes.data for array in allocated}


def test_arrays_land_on_the_mesh_that_is_asked_for():
    mesh = jax.make_mesh((1,), ("model",))
    sharding = NamedSharding(mesh, PartitionSpec())
    config = load_model(MODELS / "llama3.1").config
    shardings = jax.tree.map(lambda _: sharding, abstract(config, "float32").params)
    model = load_model(MODELS / "llama3.1", shardings=shardings)
    assert {leaf.sharding for leaf in jax.tree.leaves(model)} == {sharding}


def rewrite(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def shard(folder):
    """Splits the one file into two with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:])):
        weight_map |= dict.fromkeys(part, f"part{number}.safetensors")
        save_file({name: tensors[name] for name in part}, folder / f"part{number}.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def test_shards_give_the_same_model(broken):
    shard(broken)
    whole, parts = load_model(MODELS / "llama3.1"), load_model(broken)
    assert all(map(np.array_equal, jax.tree.leaves(whole), jax.tree.leaves(parts)))


def test_what_changes_nothing_is_ignored(broken):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    rewrite(broken, lambda tensors: tensors | extra)
    plain, noted = load_model(MODELS / "llama3.1"), load_model(broken)
    assert all(map(np.array_equal, jax.tree.leaves(plain), jax.tree.leaves(noted)))


def test_a_tied_model_may_carry_its_head(tmp_path):
    tied = MODELS / "llama3.2"
    tensors = load_file(tied / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tied / "config.json").read_text())
    assert "unembed" not in load_model(tmp_path).params


@pytest.mark.parametrize(
    "change", [lambda head: np.concatenate([head[:-1], head[:1]]), lambda head: head[1:]]
)
def test_a_head_beside_tied_embeddings_that_is_another_is_refused(tmp_path, change):
    tied = MODELS / "llama3.2"
    tensors = load_file(tied / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"].astype(ml_dtypes.bfloat16)
    tensors |= {"model.embed_tokens.weight": embedding, "lm_head.weight": change(embedding)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tied / "config.json").read_text())
    with pytest.raises(InputError, match=r"lm_head\.weight is not model\.embed_tokens\.weight"):
        load_model(tmp_path)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: {k: v for k, v in tensors.items() if k != UP},
            rf"tensor {UP} is missing, expected \(24, 16\)",
        ),
        (
            lambda tensors: {k: v for k, v in tensors.items() if k != "lm_head.weight"},
            "tensor lm_head.weight is missing",
        ),
        (
            lambda tensors: tensors | {UP: np.zeros((24, 15), np.float32)},
            rf"{UP} has shape \(24, 15\), expected \(24, 16\)",
        ),
        (
            lambda tensors: tensors | {UP: np.full((24, 16), np.nan, np.float32)},
            f"{UP} holds NaN or Inf",
        ),
        (
            lambda tensors: tensors | {UP: np.full((24, 16), np.inf, np.float32)},
            f"{UP} holds NaN or Inf",
        ),
        (
            lambda tensors: tensors | {UP: np.zeros((24, 16), np.int8)},
            f"{UP} has dtype I8, expected one of F32, F16, BF16",
        ),
        (
            lambda tensors: tensors | {UP.replace("1", "2"): tensors[UP]},
            "unexpected tensor model.layers.2.mlp.up_proj.weight",
        ),
    ],
)
def test_a_broken_tensor_is_named(broken, change, message):
    rewrite(broken, change)
    with pytest.raises(InputError, match=message):
        load_model(broken)


def test_numbers_beyond_the_dtype_are_refused(broken):
    rewrite(broken, lambda tensors: tensors | {UP: np.full((24, 16), 1e6, np.float32)})
    load_model(broken, "bfloat16")
    with pytest.raises(InputError, match=f"{UP} holds numbers that float16 cannot"):
        load_model(broken, "float16")


def test_truncated_file_is_named(broken):
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model.safetensors: truncated"):
        load_model(broken)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"model.safetensors: truncated"):
        load_model(broken)


def test_missing_files_are_named(broken):
    names = shard(broken)
    (broken / "part1.safetensors").unlink()
    with pytest.raises(InputError, match=r"part1.safetensors: no such file"):
        load_model(broken)
    (broken / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"neither model.safetensors nor"):
        load_model(broken)
    index = {"weight_map": dict.fromkeys([*names[:9], "ghost"], "part0.safetensors")}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"part0.safetensors: tensor ghost is missing"):
        load_model(broken)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "weight_map is missing"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "'../b.safetensors' lies elsewhere"),
    ],
)
def test_broken_index_is_named(broken, index, message):
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=message):
        load_model(broken)
