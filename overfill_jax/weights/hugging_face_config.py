"""Hugging Face `config.json` to `ModelConfig` and back.

A field that changes the computation and is not understood is refused by name: a model that loads
and computes something else is worse than one that does not load.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig, Rope
from overfill_jax.model.handoff import as_fields, from_fields


@dataclasses.dataclass(frozen=True)
class Family:
    """What a `model_type` implies, and the defaults transformers takes for absent fields.

    Attributes:
      architecture: the class that transformers loads.
      max_position: default of `max_position_embeddings`.
      num_kv_heads, head_dim: defaults of their fields; None for N and for D / N.
      qkv_bias, qk_norm: as in `ModelConfig`.
      sliding_window: default of its field where that alone, not `use_sliding_window`, decides.
      widths_divide: transformers refuses a width that is not a multiple of the heads.
    """

    architecture: str
    max_position: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    widths_divide: bool = False


# As of transformers 5.23, `models/*/configuration_*.py`.
FAMILIES = {
    "llama": Family("LlamaForCausalLM", max_position=2048, widths_divide=True),
    "mistral": Family("MistralForCausalLM", 131072, num_kv_heads=8, sliding_window=4096),
    "qwen2": Family("Qwen2ForCausalLM", 32768, num_kv_heads=32, qkv_bias=True),
    "qwen3": Family("Qwen3ForCausalLM", 32768, num_kv_heads=32, head_dim=128, qk_norm=True),
}

# Marks a config.json as ours to replace; transformers keeps what it does not know, and so it
# carries a decoder's handoff as well.
EXPORTED = {"exported_by": "overfill_jax"}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_READ = {
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "handoff",
}
# Known to leave the logits alone: bookkeeping, training, and the window that no one looks through.
_INERT = {
    *TOKEN_IDS,
    *EXPORTED,
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_window_layers",
    "pretraining_tp",
    "return_dict",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
}
# The one value at which a field is understood; an absent or null field has it.
_ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0}

# Fields of each rope type, in the order of `Rope` after `theta` and `kind`.
_ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def from_hugging_face(source: Mapping[str, Any], name: str) -> ModelConfig:
    """The shape that a parsed `config.json` describes.

    Args:
      source: the parsed file, of an old or a new transformers.
      name: what error messages call the file.

    Raises:
      InputError: a field is missing, or changes the computation and is not understood.
    """
    family = _family(source, name)

    def size(key: str, default: int | None = None) -> int:
        return _positive(source, key, int, default, name)

    layers = size("num_hidden_layers")
    _refuse_unknown(source, family, layers, name)
    heads, width = size("num_attention_heads"), size("hidden_size")
    kv_heads = family.num_kv_heads if "num_key_value_heads" not in source else None
    fields = {
        "model_type": source["model_type"],
        "vocab_size": size("vocab_size"),
        "hidden_size": width,
        "intermediate_size": size("intermediate_size"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": size("num_key_value_heads", kv_heads or heads),
        "head_dim": size("head_dim", family.head_dim or width // heads),
        "rope": _rope(source, name),
        "norm_epsilon": _positive(source, "rms_norm_eps", float, 1e-6, name),
        "max_position": size("max_position_embeddings", family.max_position),
        "tied_embeddings": _flag(source, "tie_word_embeddings", name),
        "qkv_bias": family.qkv_bias,
        "qk_norm": family.qk_norm,
    }
    try:
        return ModelConfig(**fields, handoff=from_fields(source))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error


def to_hugging_face(
    config: ModelConfig, dtype: str, token_ids: Mapping[str, Any]
) -> dict[str, Any]:
    """A `config.json` that old and new transformers read alike.

    Args:
      config: the shape.
      dtype: of the weights, as numpy names it.
      token_ids: the model's `TOKEN_IDS`; an absent one is written as null, because transformers
        would otherwise take its family's own.
    """
    # `rope_theta` with `rope_scaling` is the spelling that transformers has read throughout.
    return {
        "architectures": [FAMILIES[config.model_type].architecture],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config.rope),
        "sliding_window": None,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
        **{key: token_ids.get(key) for key in TOKEN_IDS},
        **EXPORTED,
        **as_fields(config.handoff),
    }


def _family(source: Mapping[str, Any], name: str) -> Family:
    if "model_type" not in source:
        raise InputError(f"{name}: model_type is missing, expected one of {', '.join(FAMILIES)}")
    family = FAMILIES.get(str(source["model_type"]))
    if family is None:
        raise InputError(
            f"{name}: model_type is {source['model_type']!r}, expected one of {', '.join(FAMILIES)}"
        )
    return family


def _refuse_unknown(source: Mapping[str, Any], family: Family, layers: int, name: str) -> None:
    understood = _READ | _INERT
    if family.sliding_window:
        understood -= {"sliding_window"}
        if "sliding_window" not in source:
            raise InputError(
                f"{name}: sliding_window is absent, for which transformers takes "
                f"{family.sliding_window}; expected null"
            )
    only = {**_ONLY, "layer_types": ["full_attention"] * layers}
    for key, value in source.items():
        expected = only.get(key)
        # By identity: 0 equals False, and can be a number that changes the computation.
        off = value is None or value is False
        if key not in understood and not off and (expected is None or value != expected):
            wanted = "null, false or absent" if expected is None else _short(expected)
            raise InputError(f"{name}: {key} is {_short(value)}, expected {wanted}")


def _rope(source: Mapping[str, Any], name: str) -> Rope:
    """Reads `rope_parameters` (new), `rope_theta` with `rope_scaling` (old), or agreeing both."""
    theta = source.get("rope_theta")
    spelled = [key for key in ("rope_parameters", "rope_scaling") if source.get(key)]
    for key in spelled:
        if not isinstance(source[key], dict):
            raise InputError(f"{name}: {key} is {_short(source[key])}, expected an object")
    ropes = [_parse_rope(source[key], theta, f"{name}: {key}") for key in spelled]
    if not ropes:
        ropes = [_parse_rope({}, theta, name)]
    if ropes[0] != ropes[-1]:
        raise InputError(f"{name}: rope_parameters and rope_scaling differ, expected one of them")
    return ropes[0]


def _parse_rope(scaling: Mapping[str, Any], theta: int | float | None, name: str) -> Rope:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in tuple(_ROPE_FIELDS):
        raise InputError(f"{name} has type {kind!r}, expected one of {', '.join(_ROPE_FIELDS)}")
    fields = _ROPE_FIELDS[kind]
    # The original length is written along with every type, and read by llama3 only.
    known = {"rope_type", "type", "rope_theta", "original_max_position_embeddings", *fields}
    for key, value in scaling.items():
        if key not in known and value is not None and value != _ONLY.get(key):
            raise InputError(f"{name} has {key} {_short(value)}, not understood with type {kind!r}")
    plain = 10000.0 if theta is None else theta
    if theta is not None and scaling.get("rope_theta", theta) != theta:
        raise InputError(f"{name} has rope_theta {scaling['rope_theta']}, but beside it {theta}")
    values = [_positive(scaling, key, float, None, name) for key in fields]
    if kind == "llama3":
        values[-1] = int(values[-1])
        if values[2] <= values[1]:
            raise InputError(
                f"{name} has high_freq_factor {values[2]}, expected it above "
                f"low_freq_factor {values[1]}"
            )
    return Rope(_positive(scaling, "rope_theta", float, plain, name), kind, *values)


def _rope_scaling(rope: Rope) -> dict[str, Any] | None:
    if rope.kind == "default":
        return None
    values = dataclasses.astuple(rope)[2:]
    # Before llama3 there was `type`; those versions allow no third field, and new ones read it.
    spelling = "type" if rope.kind == "linear" else "rope_type"
    return {spelling: rope.kind, **dict(zip(_ROPE_FIELDS[rope.kind], values, strict=False))}


def _positive(
    source: Mapping[str, Any], key: str, kind: type, default: int | float | None, name: str
) -> Any:
    value = source.get(key)
    if value is None:
        value = default
    if value is None:
        raise InputError(f"{name}: {key} is missing, expected a positive number")
    allowed = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not value > 0:
        raise InputError(f"{name}: {key} is {_short(value)}, expected a positive {kind.__name__}")
    return kind(value)


def _flag(source: Mapping[str, Any], key: str, name: str) -> bool:
    value = source.get(key)
    if value not in (None, True, False):
        raise InputError(f"{name}: {key} is {_short(value)}, expected true or false")
    return bool(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
