"""A model to a Hugging Face folder that transformers loads, tensor by tensor."""

import json
import math
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from tqdm.auto import tqdm

from overfill_jax.errors import InputError
from overfill_jax.files import write_json
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model
from overfill_jax.weights.folders import model_folder
from overfill_jax.weights.hugging_face_config import EXPORTED, FAMILIES, to_hugging_face
from overfill_jax.weights.hugging_face_import import DTYPES, INDEX, SINGLE
from overfill_jax.weights.hugging_face_tensors import Tensor, tensors
from overfill_jax.weights.tokenizer_files import copy_tokenizer, read_token_ids

_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
# A tensor of a shard: its name in the file, the row of the table, the layer.
_Entry = tuple[str, Tensor, int]


def export_model(
    model: Model,
    folder: Path,
    tokenizer_source: Path | None,
    shard_bytes: int,
    allow_illegal: bool = False,
) -> None:
    """Writes config.json, safetensors and the tokenizer's files; the weights keep their dtype.

    Args:
      model: what to write.
      folder: a new or empty one, or an earlier export to replace.
      tokenizer_source: the folder whose tokenizer files are copied.
      shard_bytes: largest size of a file; a tensor above it has a file of its own. Where one file
        holds everything, there is no index.
      allow_illegal: write a width that transformers refuses to load.

    Raises:
      InputError: such a width, or a folder with something else in it, with the source in it or
        that cannot be written.
    """
    if not allow_illegal:
        check_width(model.config)
    params = traverse_util.flatten_dict(model.params)
    shards = _shards(model.config, params, shard_bytes)
    total = sum(map(len, shards))
    with (
        model_folder(folder, EXPORTED, tokenizer_source) as target,
        tqdm(total=total, desc=f"writing {folder.name}", unit="tensor") as progress,
    ):
        weight_map = {}
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            _write_shard(target / (SINGLE if len(shards) == 1 else name), shard, params, progress)
            weight_map |= dict.fromkeys((entry[0] for entry in shard), name)
        if len(shards) > 1:
            size = sum(leaf.nbytes for leaf in params.values())
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            write_json(target / INDEX, index)
        token_ids = {}
        if tokenizer_source is not None:
            copy_tokenizer(tokenizer_source, target)
            token_ids = read_token_ids(tokenizer_source)
        dtype = np.dtype(params["embed", "embedding"].dtype).name
        write_json(target / "config.json", to_hugging_face(model.config, dtype, token_ids))


def check_width(config: ModelConfig) -> None:
    """Refuses a width that current transformers do not load.

    Raises:
      InputError: names the legal widths next to it.
    """
    width, heads = config.hidden_size, config.num_heads
    if not FAMILIES[config.model_type].widths_divide or width % heads == 0:
        return
    step = math.lcm(128, heads)
    below = width // step * step
    legal = f"{below} and {below + step}" if below else f"{step}"
    raise InputError(
        f"hidden_size {width} is not a multiple of the {heads} heads, which transformers refuses "
        f"to load; next legal widths (multiples of lcm(128, {heads}) = {step}): {legal}"
    )


def _shards(config: ModelConfig, params: dict, shard_bytes: int) -> list[list[_Entry]]:
    shards, room = [], 0
    for tensor in tensors(config):
        size = math.prod(tensor.shape) * params[tensor.path].dtype.itemsize
        for layer in range(config.num_layers if tensor.stacked else 1):
            if not shards or room < size:
                shards.append([])
                room = shard_bytes
            shards[-1].append((tensor.name(layer), tensor, layer))
            room -= size
    return shards


def _write_shard(path: Path, shard: list[_Entry], params: dict, progress: tqdm) -> None:
    # Streamed, because the safetensors library wants a whole shard in memory. The format: length
    # of the header in 8 bytes, the header as JSON, the arrays one behind the other.
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor, _ in shard:
        dtype = np.dtype(params[tensor.path].dtype)
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": tensor.file_shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor, layer in shard:
            leaf = params[tensor.path]
            array = jax.device_get(leaf[layer] if tensor.stacked else leaf)
            file.write(tensor.to_file(array).view(np.uint8))
            progress.update()
