"""The files that a tokenizer and a chat template consist of, as they travel with a model."""

import shutil
from pathlib import Path
from typing import Any

from overfill_jax.errors import InputError
from overfill_jax.files import read_object, write_json
from overfill_jax.weights.hugging_face_config import TOKEN_IDS

GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    GENERATION,
)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies what tokenizer and chat template need, with the ids of the special tokens.

    Args:
      source: a folder with `TOKENIZER_FILES`, or a single .model or .json file.
      target: the folder to copy to.

    Raises:
      InputError: `source` is neither, or one of its JSON files is none.
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
    if token_ids := read_token_ids(source):
        write_json(target / GENERATION, _optional(source / GENERATION) | token_ids)


def read_token_ids(folder: Path) -> dict[str, Any]:
    """Ids of beginning, end and padding by their Hugging Face names, as far as they are known.

    Each comes from generation_config.json, and else from config.json; what ends an answer by
    either of them ends it.

    Raises:
      InputError: one of the files holds no JSON object.
    """
    sources = [_optional(folder / name) for name in (GENERATION, "config.json")]
    found = {}
    for key in TOKEN_IDS:
        values = [source[key] for source in sources if source.get(key) is not None]
        if key == "eos_token_id":
            every = [i for value in values for i in (value if isinstance(value, list) else [value])]
            every = list(dict.fromkeys(every))
            values = every if len(every) < 2 else [every]
        if values:
            found[key] = values[0]
    return found


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}
