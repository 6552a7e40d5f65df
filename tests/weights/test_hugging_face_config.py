"""config.json in and out: families, spellings of RoPE, and what is refused by name."""

import dataclasses

import pytest

from overfill_jax.errors import InputError
from overfill_jax.model.config import Rope
from overfill_jax.weights.hugging_face_config import FAMILIES, from_hugging_face, to_hugging_face

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def source(model_type: str = "llama", **changes) -> dict:
    plain = {
        "model_type": model_type,
        "vocab_size": 100,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": None,
    }
    return plain | changes


def parse(*args, **changes):
    return from_hugging_face(source(*args, **changes), "config.json")


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
        {
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", **LLAMA3},
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3},
        },
    ],
)
def test_spellings_of_llama3_rope_agree(fields):
    assert parse(**fields).rope == Rope(5e5, "llama3", 8.0, 1.0, 4.0, 32)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 4}},
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}},
    ],
)
def test_spellings_of_linear_rope_agree(fields):
    assert parse(**fields).rope == Rope(1e4, "linear", 4.0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rope_scaling": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"partial_rotary_factor": 1.0},
    ],
)
def test_default_rope(fields):
    assert parse(**fields).rope == Rope(1e4)


def test_defaults_are_those_of_transformers():
    sparse = source()
    del sparse["num_key_value_heads"]
    llama = from_hugging_face(sparse, "config.json")
    assert (llama.num_kv_heads, llama.head_dim, llama.max_position) == (4, 12, 2048)
    assert (llama.norm_epsilon, llama.tied_embeddings) == (1e-6, False)
    assert parse("qwen3").head_dim == 128
    sparse |= {"model_type": "mistral", "hidden_size": 64, "num_attention_heads": 16}
    assert from_hugging_face(sparse, "config.json").num_kv_heads == 8


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_match_the_installed_transformers(model_type):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(model_type)
    family = FAMILIES[model_type]
    ours = dataclasses.asdict(family)
    assert theirs.max_position_embeddings == family.max_position
    assert theirs.num_key_value_heads == (family.num_kv_heads or theirs.num_attention_heads)
    head_dim = getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert head_dim == (family.head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert (theirs.rms_norm_eps, theirs.tie_word_embeddings) == (1e-6, False)
    assert theirs.rope_parameters["rope_theta"] == 10000.0
    assert ours["sliding_window"] == (theirs.sliding_window if model_type == "mistral" else None)


def test_families_imply_bias_and_norm():
    assert parse("qwen2").qkv_bias and not parse("qwen2").qk_norm
    assert parse("qwen3").qk_norm and not parse("qwen3").qkv_bias
    assert not parse("mistral").qkv_bias and not parse("llama").qk_norm


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma2"}, "model_type is 'gemma2', expected one of llama, mistral"),
        ({"model_type": None}, "model_type is None"),
        ({"attention_bias": True}, "attention_bias is True, expected null, false or absent"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window is 4096, expected"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            r"layer_types is \['full_attention', 'sliding_attention'\], expected \['full",
        ),
        ({"quantization_config": {"bits": 4}}, r"quantization_config is \{'bits': 4\}"),
        ({"logit_scale": 0.5}, "logit_scale is 0.5, expected null, false or absent"),
        ({"logit_scale": 0}, "logit_scale is 0, expected null, false or absent"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0, expected null, false or absent"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1.0"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling has type 'yarn'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "type 'dynamic', expected"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters has type 'longrope'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "has full_attention"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "mscale 1.0"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4}}, "above"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta 500000.0"),
        (
            {
                "rope_parameters": {"rope_type": "default"},
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
            "rope_parameters and rope_scaling differ",
        ),
        ({"hidden_size": "48"}, "hidden_size is '48', expected a positive int"),
        ({"vocab_size": -1}, "vocab_size is -1, expected a positive int"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected true or false"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
    ],
)
def test_refused_by_name(changes, message):
    with pytest.raises(InputError, match=f"^config.json: .*{message}"):
        parse(**changes)


def test_a_mistral_without_the_window_has_one():
    silent = source("mistral")
    del silent["sliding_window"]
    with pytest.raises(InputError, match=r"sliding_window is absent, for which .* takes 4096"):
        from_hugging_face(silent, "config.json")


@pytest.mark.parametrize(
    "key",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_missing_fields_are_named(key):
    sparse = source()
    del sparse[key]
    with pytest.raises(InputError, match=f"{key} is missing"):
        from_hugging_face(sparse, "config.json")


def test_inert_fields_change_nothing():
    plain = parse()
    noted = parse(attention_dropout=0.1, use_cache=True, torch_dtype="bfloat16", bos_token_id=1)
    assert dataclasses.replace(noted, dtype=plain.dtype) == plain
    window = {"sliding_window": 32768, "max_window_layers": 28, "use_sliding_window": False}
    assert parse("qwen2", **window) == parse("qwen2")
    # As SmolLM2 has them.
    smol = {
        "_attn_implementation_autoset": True,
        "is_llama_config": True,
        "rope_interleaved": False,
    }
    assert parse(**smol) == plain
    full_attention = ["full_attention"] * 2
    assert parse(layer_types=full_attention, quantization_config=None, use_mrope=False) == plain


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize(
    "rope", [Rope(5e5), Rope(1e4, "linear", 4.0), Rope(5e5, "llama3", 8.0, 1.0, 4.0, 32)]
)
def test_out_and_in_is_the_same(model_type, rope):
    config = dataclasses.replace(parse(model_type, head_dim=16), rope=rope)
    written = to_hugging_face(config, "bfloat16", {"eos_token_id": [2, 3]})
    assert from_hugging_face(written, "config.json") == config
    assert written["head_dim"] == 16
    assert (written["bos_token_id"], written["eos_token_id"]) == (None, [2, 3])
