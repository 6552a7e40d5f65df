"""A Hugging Face folder to a model, tensor by tensor.

Peak memory is the model in its target dtype plus one tensor of the file: each stacked array is
allocated once, filled layer by layer, and handed to JAX without a copy where the device shares the
host's memory (elsewhere it leaves the host before the next one is allocated).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from overfill_jax.errors import InputError
from overfill_jax.files import read_json
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model, Params
from overfill_jax.weights.hugging_face_tensors import Tensor, tensors

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class _Stored:
    file: Path
    shape: tuple[int, ...]
    dtype: str


def import_model(
    folder: Path, config: ModelConfig, dtype: str | None, shardings: Params | None = None
) -> Model:
    """Reads the safetensors of a Hugging Face folder.

    Args:
      folder: with `model.safetensors`, or its index and shards.
      config: the shape that its config.json describes.
      dtype: of the parameters and of the computation; None for the file's own.
      shardings: a tree like the parameters; None for the first device of this process.

    Raises:
      InputError: names the file or tensor that is missing, broken, unexpected, of another shape
        than the config says, or not finite; or a head that is not the embedding it is tied to.
    """
    stored = _stored(folder)
    table = tensors(config)
    _check(folder, stored, table, config)
    if config.tied_embeddings and HEAD in stored:
        _check_tied(stored[EMBEDDING], stored[HEAD])
    dtype = dtype or np.dtype(DTYPES[stored[table[0].pattern].dtype]).name
    places = traverse_util.flatten_dict(shardings) if shardings is not None else {}
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    params = {}
    total = sum(len(_names(tensor, config)) for tensor in table)
    with tqdm(total=total, desc=f"reading {folder.name}", unit="tensor") as progress:
        for tensor in table:
            array = _read(tensor, config, stored, dtype, progress)
            placed = jax.device_put(array, places.get(tensor.path, alone))
            params[tensor.path] = jax.block_until_ready(placed)
    return Model(dataclasses.replace(config, dtype=dtype), traverse_util.unflatten_dict(params))


def _read(
    tensor: Tensor, config: ModelConfig, stored: Mapping[str, _Stored], dtype: str, progress: tqdm
) -> np.ndarray:
    names = _names(tensor, config)
    array = _aligned((len(names), *tensor.shape), np.dtype(dtype))
    for layer, name in enumerate(names):
        _copy(stored[name].file, name, tensor, array[layer])
        progress.update()
    return array if tensor.stacked else array[0]


def _copy(path: Path, name: str, tensor: Tensor, target: np.ndarray) -> None:
    # Opened for each tensor: pages of a mapped file count as ours until it is closed.
    with safe_open(path, framework="numpy") as file:
        source = file.get_tensor(name)
    with np.errstate(over="ignore"):  # what the cast makes infinite is refused below
        tensor.from_file(source, target)
    if not _finite(target):
        if _finite(source):
            raise InputError(
                f"{path}: {name} holds numbers that {target.dtype} cannot, expected another dtype"
            )
        raise InputError(f"{path}: {name} holds NaN or Inf, expected finite weights")


def _finite(array: np.ndarray) -> bool:
    # In blocks, so that the answer takes no memory to speak of.
    return all(np.isfinite(array[row : row + 1024]).all() for row in range(0, len(array), 1024))


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    # JAX on CPU takes an array over without a copy only if it starts on a multiple of 64 bytes.
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _names(tensor: Tensor, config: ModelConfig) -> list[str]:
    return [tensor.name(layer) for layer in range(config.num_layers if tensor.stacked else 1)]


def _check(
    folder: Path, stored: Mapping[str, _Stored], table: list[Tensor], config: ModelConfig
) -> None:
    """Compares names, shapes and dtypes with the config before anything is read."""
    expected = {name: tensor for tensor in table for name in _names(tensor, config)}
    for name, tensor in expected.items():
        if name not in stored:
            raise InputError(f"{folder}: tensor {name} is missing, expected {tensor.file_shape}")
        found = stored[name]
        if found.shape != tensor.file_shape:
            raise InputError(
                f"{found.file}: {name} has shape {found.shape}, expected {tensor.file_shape} "
                "by config.json"
            )
        if found.dtype not in DTYPES:
            raise InputError(
                f"{found.file}: {name} has dtype {found.dtype}, expected one of {', '.join(DTYPES)}"
            )
    for name in sorted(stored.keys() - expected.keys()):
        # Old files carry the rotary frequencies, some tied ones the embedding twice.
        if not name.endswith("rotary_emb.inv_freq") and name != HEAD:
            raise InputError(
                f"{stored[name].file}: unexpected tensor {name}, not part of a "
                f"{config.model_type} model with {config.num_layers} layers"
            )


def _check_tied(embedding: _Stored, head: _Stored) -> None:
    """Refuses a head of its own, with which transformers computes, whatever the config says."""

    def same(rows: int) -> bool:
        with (
            safe_open(embedding.file, framework="numpy") as ours,
            safe_open(head.file, framework="numpy") as theirs,
        ):
            pair = ours.get_slice(EMBEDDING), theirs.get_slice(HEAD)
            # In blocks, as in `_finite`.
            blocks = (slice(row, min(row + 1024, rows)) for row in range(0, rows, 1024))
            return all(np.array_equal(*(part[block] for part in pair)) for block in blocks)

    if head.shape != embedding.shape or not same(embedding.shape[0]):
        raise InputError(
            f"{head.file}: {HEAD} is not {EMBEDDING}, expected them equal or "
            "tie_word_embeddings false in config.json"
        )


def _stored(folder: Path) -> dict[str, _Stored]:
    """Where each tensor lies, from the headers of the files; nothing is read."""
    if (folder / SINGLE).exists():
        return _header(folder / SINGLE)
    index = folder / INDEX
    if not index.exists():
        raise InputError(f"{folder}: neither {SINGLE} nor {INDEX} is there, expected one of them")
    listing = read_json(index)
    weight_map = listing.get("weight_map") if isinstance(listing, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(
            f"{index}: weight_map is missing or empty, expected tensor names and files"
        )
    stored = {}
    for file in sorted(set(map(str, weight_map.values()))):
        if Path(file).name != file:
            raise InputError(f"{index}: file {file!r} lies elsewhere, expected it in {folder}")
        stored |= _header(folder / file)
    for name, file in weight_map.items():
        if name not in stored:
            raise InputError(f"{folder}/{file}: tensor {name} is missing, expected by {INDEX}")
    return stored


def _header(path: Path) -> dict[str, _Stored]:
    if not path.exists():
        raise InputError(f"{path}: no such file, expected a shard that {INDEX} names")
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: _Stored(path, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file ({error})") from error
