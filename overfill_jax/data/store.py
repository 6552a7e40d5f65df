"""Owns tokenised sources on disk: made once, then mapped into memory.

All ids of a source lie in one flat file. The folder's name holds a digest of all that the ids
depend on, so that a change of any of it makes new ones. (What a chat template takes from the
clock is no part of it: a run that is resumed tomorrow goes on with today's tokens.)
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int

from overfill_jax import distributed, files
from overfill_jax.data.chat import load_template
from overfill_jax.data.instructions import ReadOptions, Rejected, read_examples, report
from overfill_jax.data.tokenizers import load_tokenizer, optional_json
from overfill_jax.errors import InputError

VERSION = 2  # of the files below, and of the way from text to ids

# All that decides what `load_tokenizer` and `load_template` give,
DECIDING_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
# and of these the ids that end an answer alone; all else is about a model and its use.
STOP_FILES = ("generation_config.json", "config.json")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Examples as ids, one behind the other in `ids`.

    Attributes:
      digest: of all that they depend on.
      ids: of prompts and answers.
      starts: where each prompt begins in `ids`, and where the last answer ends.
      prompts: length of each prompt; the answer follows.
      rows: line of the source that each example comes from, from 1.
    """

    digest: str
    ids: Int[np.ndarray, "T"]
    starts: Int[np.ndarray, "N_and_1"]
    prompts: Int[np.ndarray, "N"]
    rows: Int[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def answers(self) -> Int[np.ndarray, "N"]:
        """Length of each answer."""
        return np.diff(self.starts) - self.prompts

    def of(self, example: int) -> Int[np.ndarray, "T"]:
        """Prompt and answer of one example."""
        return self.ids[self.starts[example] : self.starts[example + 1]]

    def part(self, start: int, stop: int) -> "Tokens":
        """The examples from `start` to `stop`."""
        return Tokens(
            digest=f"{self.digest}[{start}:{stop}]",
            ids=self.ids,
            starts=self.starts[start : stop + 1],
            prompts=self.prompts[start:stop],
            rows=self.rows[start:stop],
        )


def load_tokens(
    source: Path, split: str, tokenizer: Path, options: ReadOptions, folder: Path
) -> Tokens:
    """The examples of a source, from their place in `folder` or put there now.

    Of several processes the first one writes, and the others wait for it.

    Args:
      source: a JSONL file or TFDS folder.
      split: of the folder.
      tokenizer: model folder, or file, that tokenizer and chat template come from.
      options: which rows and answers count.
      folder: holds the tokens of any number of sources.

    Raises:
      InputError: `source` cannot be read, holds no usable row, or differs between processes.
    """
    digest = _digest(source, split, tokenizer, options)
    check_same_everywhere(source, digest)
    place = folder / f"{source.stem}-{digest[:16]}"
    tokens = _stored(place, digest)
    if tokens is not None:
        logging.info("%s: tokens are in %s", source, place)
        report(source, len(tokens), _rejected(place))
    elif distributed.is_main():
        _write(source, split, tokenizer, options, place, digest)
        tokens = _stored(place, digest)
    while tokens is None:
        time.sleep(1)  # if process 0 fails instead, it takes this process with it
        tokens = _stored(place, digest)
    return tokens


def check_same_everywhere(source: Path, digest: str) -> None:
    """Refuses a source that is not the same for all processes; to be called by all of them.

    Raises:
      InputError: in every process; names the source, and which of them have the same.
    """
    found = distributed.who_says(distributed.gather(digest, distributed.WORK_TIMEOUT))
    if len(found) > 1:
        contents = ", ".join(f"{one[:16]} in process {who}" for one, who in found.items())
        raise InputError(
            f"{source}: found different contents on different hosts (digest {contents}), "
            "expected the same"
        )


def _digest(source: Path, split: str, tokenizer: Path, options: ReadOptions) -> str:
    if not source.exists():
        raise InputError(f"{source}: no such source, expected a JSONL file or a TFDS folder")
    inputs = [source]
    if source.is_dir():
        inputs = sorted(path for path in source.rglob("*") if path.is_file())
    if tokenizer.is_dir():
        beside, found = tokenizer, [tokenizer / name for name in DECIDING_FILES]
    else:
        beside = tokenizer.parent
        found = [tokenizer, *(beside / name for name in DECIDING_FILES[2:])]
    stops = [optional_json(beside / name).get("eos_token_id") for name in STOP_FILES]
    settings = [VERSION, split if source.is_dir() else "", dataclasses.asdict(options), stops]
    whole = hashlib.sha256(json.dumps(settings).encode())
    try:
        for path in [*inputs, *(path for path in found if path.is_file())]:
            with path.open("rb") as file:
                whole.update(path.name.encode() if path is not source else b"")
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return whole.hexdigest()


def _write(
    source: Path,
    split: str,
    tokenizer: Path,
    options: ReadOptions,
    place: Path,
    digest: str,
) -> None:
    rejected: list[Rejected] = []
    lengths: list[tuple[int, int, int]] = []
    tools = load_tokenizer(tokenizer), load_template(tokenizer)
    with files.replace_folder(place) as folder:
        with (folder / "ids").open("wb") as file:
            for one in read_examples(source, split, *tools, options, rejected):
                file.write(one.prompt.tobytes())
                file.write(one.answer.tobytes())
                lengths.append((one.row, len(one.prompt), len(one.answer)))
        report(source, len(lengths), rejected)
        rows, prompts, answers = np.array(lengths, np.int64).T
        starts = np.concatenate([[0], np.cumsum(prompts + answers)])
        for name, array in (("starts", starts), ("prompts", prompts), ("rows", rows)):
            np.save(folder / f"{name}.npy", array)
        files.write_json(
            folder / "about.json",
            {
                "digest": digest,
                "source": str(source),
                "examples": len(lengths),
                "tokens": int(starts[-1]),
                "rejected": [[one.row, one.reason] for one in rejected],
            },
        )
    logging.info("saved %s: %d tokens", place, starts[-1])


def _stored(place: Path, digest: str) -> Tokens | None:
    """What `_write` left at `place`; None where that is nothing whole."""
    if not place.exists():
        return None
    try:
        about = files.read_json(place / "about.json")
        starts, prompts, rows = (
            np.load(place / f"{name}.npy", allow_pickle=False)
            for name in ("starts", "prompts", "rows")
        )
        ids = np.memmap(place / "ids", np.int32, "r").view(np.ndarray)
        whole = (
            about["digest"] == digest
            and len(rows) == len(prompts) == len(starts) - 1 == about["examples"]
            and len(ids) == starts[-1] == about["tokens"]
        )
    except (InputError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        whole, reason = False, f" ({' '.join(str(error).split())})"
    else:
        reason = ""
    if not whole:
        if distributed.is_main():  # the others look again and again until it is
            logging.warning("%s: not whole%s; its source is tokenised anew", place, reason)
        return None
    return Tokens(digest, ids, starts, prompts, rows)


def _rejected(place: Path) -> list[Rejected]:
    return [Rejected(*one) for one in files.read_json(place / "about.json")["rejected"]]
