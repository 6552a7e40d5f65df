"""Folders that hold a model: ours (config.json, Orbax parameters, tokenizer) or Hugging Face's."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from overfill_jax.errors import InputError
from overfill_jax.files import read_json, replace_folder, write_json
from overfill_jax.model.config import ModelConfig, Rope
from overfill_jax.model.transformer import Model, Params, abstract
from overfill_jax.weights.checkpoints import load_tree, save_tree, stored_arrays
from overfill_jax.weights.hugging_face_config import TOKEN_IDS, from_hugging_face
from overfill_jax.weights.hugging_face_import import import_model

# Marks a config.json as ours. The shape lies one level deeper, so that transformers finds nothing
# in it that it could take for a config of its own.
FORMAT = "overfill_jax model 1"
DTYPES = ("float32", "bfloat16", "float16")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def save_model(folder: Path, model: Model, tokenizer_source: Path | None) -> None:
    """Writes a model folder, whole or not at all.

    Args:
      folder: a new or empty one, or one with a model to replace.
      model: what to write; parameters keep their dtype.
      tokenizer_source: the folder or file whose tokenizer goes along.

    Raises:
      InputError: the folder holds something else, or cannot be written.
    """
    with model_folder(folder) as target:
        save_tree(target / "params", model.params)
        if tokenizer_source is not None:
            copy_tokenizer(tokenizer_source, target)
        config = {"format": FORMAT, "model": dataclasses.asdict(model.config)}
        write_json(target / "config.json", config)


def load_model(folder: Path, dtype: str | None = None, shardings: Params | None = None) -> Model:
    """Reads a model from a folder of ours or of Hugging Face.

    Args:
      folder: with a config.json and the weights.
      dtype: of the parameters and of the computation; None for what the folder says.
      shardings: a tree like the parameters; None for the first device of this process.

    Raises:
      InputError: the folder holds no model, a broken or half-written one, or one that is not
        understood.
    """
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    config, ours = _config(folder)
    if not ours:
        return import_model(folder, config, dtype, shardings)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    stored = stored_arrays(folder / "params")

    def wanted(path, leaf, sharding=None):
        # An array that is not there keeps any dtype; `load_tree` refuses it by name.
        found = stored.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        return jax.ShapeDtypeStruct(leaf.shape, dtype or found.dtype, sharding=sharding)

    trees = [abstract(config, config.dtype).params]
    trees += [] if shardings is None else [shardings]
    params = jax.tree_util.tree_map_with_path(wanted, *trees)
    return Model(config, load_tree(folder / "params", params))


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder of ours or of Hugging Face, without its weights.

    Raises:
      InputError: as `load_model`, as far as config.json goes.
    """
    return _config(folder)[0]


def fingerprint(model: Model) -> str:
    """A hash of the shape and of a sample of every weight, by which a model is recognised.

    The same weights in float32 and in bfloat16 have the same fingerprint, however they are
    sharded and computed.
    """
    shape = dataclasses.asdict(dataclasses.replace(model.config, dtype=""))
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(_sample(leaf).tobytes())
    return digest.hexdigest()[:16]


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies what tokenizer and chat template need, with the ids of the special tokens.

    Args:
      source: a folder with `TOKENIZER_FILES`, or a single .model or .json file.
      target: the folder to copy to.

    Raises:
      InputError: `source` is neither.
    """
    if source.is_file() and source.suffix in (".model", ".json"):
        shutil.copyfile(source, target / f"tokenizer{source.suffix}")
        return
    if not source.is_dir():
        raise InputError(f"{source}: expected a folder, .model or .json file with a tokenizer")
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    # Some folders have these ids in config.json only, which does not travel.
    token_ids = read_token_ids(source)
    if token_ids and not (target / "generation_config.json").exists():
        write_json(target / "generation_config.json", token_ids)


def read_token_ids(folder: Path) -> dict[str, Any]:
    """Ids of beginning, end and padding by their Hugging Face names, as far as they are known."""
    for name in ("generation_config.json", "config.json"):
        source = read_json(folder / name) if (folder / name).exists() else {}
        found = {key: source[key] for key in TOKEN_IDS if source.get(key) is not None}
        if found:
            return found
    return {}


@contextlib.contextmanager
def model_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` only if the block succeeds.

    Raises:
      InputError: `folder` holds files but no model, or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise InputError(
            f"{folder}: holds other files, expected a new or empty folder, or a model to replace"
        )
    with replace_folder(folder) as temporary:
        yield temporary


def _config(folder: Path) -> tuple[ModelConfig, bool]:
    """The shape, and whether the folder is ours."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with a model")
    path = folder / "config.json"
    source = read_json(path)
    if not isinstance(source, dict):
        raise InputError(f"{path}: found a JSON {type(source).__name__}, expected an object")
    if "format" not in source:
        return from_hugging_face(source, str(path)), False
    if source["format"] != FORMAT:
        raise InputError(f"{path}: format is not {FORMAT!r}, the only one that is understood")
    try:
        fields = source["model"]
        return ModelConfig(**{**fields, "rope": Rope(**fields["rope"])}), True
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the fields are not those of a model ({error})") from error


def _sample(leaf: jax.Array) -> np.ndarray:
    """Up to 8192 entries, spread over the array by the golden ratio so that no axis is missed."""
    count = min(leaf.size, 8192)
    flat = np.arange(count)
    if count < leaf.size:
        flat = (flat * 0.6180339887498949 % 1.0 * leaf.size).astype(np.int64)
    # One index per axis: a flat one would not fit 32 bits in large models.
    index = tuple(axis.astype(np.int32) for axis in np.unravel_index(flat, leaf.shape))
    return np.asarray(jax.device_get(leaf[index])).astype(ml_dtypes.bfloat16)
