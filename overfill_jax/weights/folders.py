"""Folders that hold a model: ours (config.json, Orbax parameters, tokenizer) or Hugging Face's."""

import contextlib
import dataclasses
import hashlib
import json
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.files import read_object, replace_folder, write_json
from overfill_jax.model.config import ModelConfig, Rope
from overfill_jax.model.handoff import as_fields, from_fields
from overfill_jax.model.quantised import (
    INTEGERS,
    ONLY_ANSWERS,
    Scheme,
    abstract_params,
    from_plain,
    scheme_of,
    to_plain,
)
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model, Params
from overfill_jax.weights.checkpoints import load_tree, save_tree, stored_arrays
from overfill_jax.weights.hugging_face_config import from_hugging_face
from overfill_jax.weights.hugging_face_import import import_model
from overfill_jax.weights.origin import Origin, check_origin
from overfill_jax.weights.tokenizer_files import copy_tokenizer

# Marks a config.json as ours. The shape lies one level deeper, so that transformers finds nothing
# in it that it could take for a config of its own.
FORMAT = "overfill_jax model 1"
OURS = {"format": FORMAT}
DTYPES = ("float32", "bfloat16", "float16")
# The stages that write the folders of a workdir.
MADE_BY = {"full": "convert", "pruned": "prune", "decoder": "train"}


def save_model(
    folder: Path,
    model: Model,
    tokenizer_source: Path | None,
    origin: Origin | None = None,
    known_as: str | None = None,
) -> None:
    """Writes a model folder, whole or not at all; called by every process of a job.

    Args:
      folder: a new or empty one, or one of ours to replace.
      model: what to write; parameters keep their dtype.
      tokenizer_source: the folder or file whose tokenizer goes along.
      origin: what the model came from; None where that is no model of ours.
      known_as: the fingerprint of the model whose weights these are in integers; None for its own.

    Raises:
      InputError: the folder holds something else, or the source; or it cannot be written.
    """
    config = {**OURS, "model": _fields(model.config), "fingerprint": known_as or fingerprint(model)}
    if origin is not None:
        config["origin"] = dataclasses.asdict(origin)
    scheme = scheme_of(model.params)
    if scheme is not None:
        config["quantised"] = dataclasses.asdict(scheme)
    with _shared_folder(folder, tokenizer_source) as target:
        save_tree(target / "params", to_plain(model.params))
        if not distributed.is_main():
            return
        if tokenizer_source is not None:
            copy_tokenizer(tokenizer_source, target)
        write_json(target / "config.json", config)


def load_model(folder: Path, dtype: str | None = None, shardings: Params | None = None) -> Model:
    """Reads a model from a folder of ours or of Hugging Face.

    Args:
      folder: with a config.json and the weights.
      dtype: of the parameters and of the computation; None for what the folder says.
      shardings: a tree like the parameters; None for the first device of this process.

    Raises:
      InputError: the folder holds no model, a broken or half-written one, or one that is not
        understood, weights that are not finite, or quantised ones.
    """
    if load_scheme(folder) is not None:
        raise InputError(f"{folder}: {ONLY_ANSWERS}")
    return load_any_model(folder, dtype, shardings)


def load_any_model(
    folder: Path, dtype: str | None = None, shardings: Params | None = None
) -> Model:
    """`load_model` for those that read quantised weights, too; these keep their dtypes."""
    if dtype is not None:
        check_dtype("dtype", dtype)
    config, ours = _config(folder)
    if not ours:
        return import_model(folder, config, dtype, shardings)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    stored = stored_arrays(folder / "params")

    def wanted(path, leaf, sharding=None):
        # An array that is not there keeps any dtype; `load_tree` refuses it by name.
        found = stored.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        kept = leaf.dtype if leaf.dtype in INTEGERS else dtype or found.dtype
        return jax.ShapeDtypeStruct(leaf.shape, kept, sharding=sharding)

    scheme = load_scheme(folder)
    trees = [abstract_params(config, scheme)]
    trees += [] if shardings is None else [shardings]
    params = jax.tree_util.tree_map_with_path(wanted, *trees)
    params = load_tree(folder / "params", params)
    _check_finite(folder, params)
    return Model(config, from_plain(params))


def load_onto(mesh: Mesh, folder: Path, dtype: str | None) -> Model:
    """`load_any_model`, where no device ever holds more than its part of the weights.

    Quantised ones, of which few bytes are left, come to each of them whole.
    """
    if load_scheme(folder) is not None:
        model = load_any_model(folder, dtype)
        everywhere = NamedSharding(mesh, PartitionSpec())
        return dataclasses.replace(model, params=jax.device_put(model.params, everywhere))
    return load_any_model(folder, dtype, weight_shardings(load_config(folder), mesh))


def load_scheme(folder: Path) -> Scheme | None:
    """How the weights in a folder are quantised; None where they are not.

    Raises:
      InputError: config.json is broken.
    """
    found = _source(folder).get("quantised")
    try:
        return None if found is None else Scheme(**found)
    except (TypeError, InputError) as error:
        path = folder / "config.json"
        raise InputError(f"{path}: quantised is not understood ({error})") from error


def check_dtype(name: str, dtype: str) -> None:
    """Refuses what is no dtype of ours; `name` is what the error calls the setting.

    Raises:
      InputError: names the setting, what was found and what was expected.
    """
    if dtype not in DTYPES:
        raise InputError(f"{name} is {dtype!r}, expected one of {', '.join(DTYPES)}")


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder of ours or of Hugging Face, without its weights.

    Raises:
      InputError: as `load_model`, as far as config.json goes.
    """
    return _config(folder)[0]


def load_origin(folder: Path) -> Origin | None:
    """What the model in a folder came from; None where that is nothing, or is not recorded.

    Raises:
      InputError: config.json is broken.
    """
    source = _source(folder)
    if "origin" not in source:
        return None
    try:
        return Origin(**source["origin"])
    except TypeError as error:
        raise InputError(f"{folder / 'config.json'}: origin is not understood ({error})") from error


def load_fingerprint(folder: Path) -> str | None:
    """The `fingerprint` of the model in a folder of ours as it was saved; None of Hugging Face's.

    Raises:
      InputError: config.json is broken.
    """
    return _source(folder).get("fingerprint")


def check_pair(full: Path, decoder: Path, first_token: str) -> None:
    """Refuses two folders whose models were not made for each other; one folder stands alone.

    Raises:
      InputError: says what the decoder was made with, and what was found.
    """
    origin = load_origin(decoder)
    if origin is not None and full != decoder:
        check_origin(origin, str(decoder), load_fingerprint(full), first_token)


def fingerprint(model: Model) -> str:
    """A hash of the shape and of a sample of every weight, by which a model is recognised.

    The same weights in float32 and in bfloat16 have the same fingerprint, however they are
    sharded and computed.
    """
    shape = _fields(dataclasses.replace(model.config, dtype=""))
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(_sample(leaf).tobytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def model_folder(folder: Path, mark: dict[str, str], source: Path | None) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` only if the block succeeds.

    Raises:
      InputError: as `check_target`, or `folder` cannot be written.
    """
    check_target(folder, mark, source)
    with replace_folder(folder) as temporary:
        yield temporary


def check_target(folder: Path, mark: dict[str, str], source: Path | None) -> None:
    """Refuses to replace what the caller has not written, and what it reads from.

    Args:
      folder: a new or empty one, or one that the caller wrote before.
      mark: what the caller writes into config.json, by which it knows its own.
      source: a folder or file that is read, and must outlive `folder`.

    Raises:
      InputError: names what is in the way.
    """
    if source is not None and folder.resolve() in (source.resolve(), *source.resolve().parents):
        raise InputError(f"{folder}: holds the source {source}, expected another folder to write")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    path = folder / "config.json"
    found = read_object(path) if path.exists() else {}
    if not mark.items() <= found.items():
        expected = ", ".join(f"{key} {value!r}" for key, value in mark.items())
        raise InputError(
            f"{folder}: holds other files, expected a new or empty folder, or one whose "
            f"config.json has {expected}"
        )


def _fields(config: ModelConfig) -> dict[str, Any]:
    """What belongs to the model, whoever computes with it."""
    fields = dataclasses.asdict(config)
    del fields["attention"], fields["handoff"]
    return fields | as_fields(config.handoff)


@contextlib.contextmanager
def _shared_folder(folder: Path, source: Path | None) -> Iterator[Path]:
    """`model_folder` of process 0 for all processes, each of which writes its part to it."""
    with contextlib.ExitStack() as stack:
        own = ""
        if distributed.is_main():
            own = stack.enter_context(model_folder(folder, OURS, source))
        yield Path(distributed.broadcast(str(own)))
        distributed.barrier("model written")
    distributed.barrier("model in its place")


def _source(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder."""
    if not folder.is_dir():
        hint = f"; the {MADE_BY[folder.name]} stage writes it" if folder.name in MADE_BY else ""
        raise InputError(f"{folder}: no such folder, expected one with a model{hint}")
    return read_object(folder / "config.json")


def _config(folder: Path) -> tuple[ModelConfig, bool]:
    """The shape, and whether the folder is ours."""
    source, path = _source(folder), folder / "config.json"
    if "format" not in source:
        return from_hugging_face(source, str(path)), False
    if source["format"] != FORMAT:
        raise InputError(f"{path}: format is not {FORMAT!r}, the only one that is understood")
    try:
        fields = source["model"]
        parsed = {"rope": Rope(**fields["rope"]), "handoff": from_fields(fields)}
        return ModelConfig(**{**fields, **parsed}), True
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the fields are not those of a model ({error})") from error


def _check_finite(folder: Path, params: Params) -> None:
    """Reads every weight once more, where it lies."""
    finite = jax.device_get(_finite(params))
    for path, ok in jax.tree_util.tree_leaves_with_path(finite):
        if not ok:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"{folder}: {name} holds NaN or Inf, expected finite weights")


@jax.jit
def _finite(params: Params) -> Params:
    # NaN is the largest of all. XLA would hold `isfinite` of every weight in memory.
    return jax.tree.map(
        lambda x: True if x.dtype in INTEGERS else jnp.isfinite(jnp.max(jnp.abs(x))), params
    )


def _sample(leaf: jax.Array) -> np.ndarray:
    """Up to 8192 entries, spread over the array by the golden ratio so that no axis is missed."""
    count = min(leaf.size, 8192)
    flat = np.arange(count)
    if count < leaf.size:
        flat = (flat * 0.6180339887498949 % 1.0 * leaf.size).astype(np.int64)
    # One index per axis: a flat one would not fit 32 bits in large models.
    index = tuple(axis.astype(np.int32) for axis in np.unravel_index(flat, leaf.shape))
    if isinstance(leaf.sharding, NamedSharding):
        # Spread over devices, of which other processes may hold some: brought together first.
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        taken = jax.jit(operator.getitem, out_shardings=everywhere)(leaf, index)
    else:
        taken = leaf[index]
    return np.asarray(jax.device_get(taken)).astype(ml_dtypes.bfloat16)
