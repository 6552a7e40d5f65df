"""Export: what comes back is bit-equal, transformers agrees, illegal widths are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff
from overfill_jax.weights import hugging_face_export
from overfill_jax.weights.folders import load_model
from overfill_jax.weights.hugging_face_config import from_hugging_face
from overfill_jax.weights.hugging_face_export import check_width, export_model
from tests.builders import CONFIG, random_model
from tests.weights.conftest import MODELS, logits

BIG = 10**9


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shard_bytes", [1, 5000, BIG])
def test_in_out_in_is_bit_equal(golden, tmp_path, shard_bytes):
    model = load_model(golden)
    export_model(model, tmp_path / "hf", golden, shard_bytes)
    assert_equal(load_model(tmp_path / "hf"), model)


def test_files_are_those_that_came_in(golden, tmp_path):
    export_model(load_model(golden), tmp_path / "hf", golden, BIG)
    ours = load_file(tmp_path / "hf" / "model.safetensors")
    theirs = load_file(golden / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)


def test_shards_keep_to_their_size(tmp_path):
    model = load_model(MODELS / "llama3.1", "bfloat16")
    export_model(model, tmp_path / "hf", None, 4096)
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = [sum(array.nbytes for array in load_file(file).values()) for file in files]
    assert max(sizes) <= 4096
    assert sum(sizes) == index["metadata"]["total_size"]
    assert set(index["weight_map"].values()) == {file.name for file in files}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_agrees(golden, tmp_path, dtype):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    export_model(load_model(golden, dtype), tmp_path / "hf", golden, 5000)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", dtype="auto", output_loading_info=True
    )
    assert not any(report.values())
    assert theirs.dtype == getattr(torch, dtype)
    expected = np.load(golden / "golden.npz")
    with torch.no_grad():
        logits = theirs.float()(torch.tensor(expected["tokens"]).long()).logits.numpy()
    # Weights rounded to bfloat16 move the logits by a few percent of their size.
    tolerance = 2e-4 if dtype == "float32" else 0.5
    np.testing.assert_allclose(logits, expected["logits"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("width", [24, 26])
def test_transformers_loads_exactly_the_widths_that_we_allow(model_type, width, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    bias, norm = model_type == "qwen2", model_type == "qwen3"
    model = random_model(model_type=model_type, hidden_size=width, qkv_bias=bias, qk_norm=norm)
    try:
        check_width(model.config)
    except InputError:
        export_model(model, tmp_path / "hf", None, BIG, allow_illegal=True)
        with pytest.raises(Exception, match="not a multiple of the number of attention"):
            transformers.AutoConfig.from_pretrained(tmp_path / "hf")
        return
    export_model(model, tmp_path / "hf", None, BIG)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokens = np.arange(10).reshape(2, 5)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(model, jnp.asarray(tokens)), expected, atol=2e-4, rtol=0)


def test_illegal_width_names_the_legal_ones():
    decoder = dataclasses.replace(CONFIG, model_type="llama", hidden_size=1689, num_heads=24)
    with pytest.raises(InputError, match=r"hidden_size 1689 .* 24 heads.*= 384\): 1536 and 1920"):
        check_width(decoder)
    with pytest.raises(InputError, match=r"lcm\(128, 24\) = 384\): 384$"):
        check_width(dataclasses.replace(decoder, hidden_size=100))
    check_width(dataclasses.replace(decoder, hidden_size=1920))


def test_illegal_width_writes_nothing_unless_told_to(tmp_path):
    changes = {"model_type": "llama", "hidden_size": 26, "qkv_bias": False, "qk_norm": False}
    model = random_model(**changes)
    with pytest.raises(InputError, match="hidden_size 26"):
        export_model(model, tmp_path / "hf", None, BIG)
    assert list(tmp_path.iterdir()) == []
    export_model(model, tmp_path / "hf", None, BIG, allow_illegal=True)
    assert load_model(tmp_path / "hf").config.hidden_size == 26


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("the only copy")
    with pytest.raises(InputError, match="holds other files"):
        export_model(random_model(), tmp_path, None, BIG)
    assert (tmp_path / "thesis.tex").exists()


def test_a_failure_leaves_the_old_export(tmp_path, monkeypatch):
    target = tmp_path / "hf"
    export_model(random_model(0), target, None, BIG)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(hugging_face_export, "to_hugging_face", fail)
    with pytest.raises(OSError, match="disk full"):
        export_model(random_model(1), target, None, BIG)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


def test_ids_and_tokenizer_travel(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "README.md").write_text("not a tokenizer")
    (source / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 7]}')
    export_model(random_model(qkv_bias=False), tmp_path / "hf", source, BIG)
    written = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} < written
    assert "README.md" not in written
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 7])
    assert config["pad_token_id"] is None


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_decoder_with_fewer_heads_and_layers(model_type, tmp_path):
    """Fewer heads than D / H, and a handoff, of which transformers knows nothing."""
    shape = {"num_layers": 2, "num_kv_heads": 1, "num_heads": 2}
    bias, norm = model_type == "qwen2", model_type == "qwen3"
    model = random_model(
        model_type=model_type, qkv_bias=bias, qk_norm=norm, **shape,
        handoff=Handoff((0, 2), ((1,), (0,))),
    )  # fmt: skip
    export_model(model, tmp_path / "hf", None, BIG)
    assert_equal(load_model(tmp_path / "hf"), model)
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokens = np.arange(10).reshape(2, 5)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(model, jnp.asarray(tokens)), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("handoff", "message"),
    [
        ("all", "handoff is not understood"),
        ({"layers": [0, 2], "kv_heads": [[0], [0]]}, "handoff is of 2 layers with .*, expected 3"),
        (
            {"layers": [0, 2], "kv_heads": [["0"], [0]]},
            "handoff .*: found .*, expected whole numbers",
        ),
    ],
)
def test_a_handoff_that_is_none_is_refused(handoff, message):
    source = json.loads((MODELS / "qwen3" / "config.json").read_text())
    source |= {"num_hidden_layers": 3, "layer_types": None, "handoff": handoff}
    with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
        from_hugging_face(source, "config.json")
