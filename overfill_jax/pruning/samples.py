"""The text that importance is measured on: samples of tokens, cut, padded, and kept with it."""

import dataclasses
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int
from tqdm.auto import tqdm

from overfill_jax import files
from overfill_jax.data.instructions import Example
from overfill_jax.data.tokenizers import Tokenizer
from overfill_jax.errors import InputError
from overfill_jax.pruning.importance import CalibrationBatch

POSITIONS = ("all", "answer")
ROWS = ("longest", "first", "packed")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Right-padded token rows [M, T], their lengths [M], and where counting starts [M]."""

    tokens: Int[np.ndarray, "M T"]
    lengths: Int[np.ndarray, "M"]
    starts: Int[np.ndarray, "M"]

    def batches(self, batch_size: int) -> Iterator[CalibrationBatch]:
        """Batches of one fixed shape, the last filled up with empty rows."""
        slots = np.arange(self.tokens.shape[1])
        for begin in tqdm(range(0, len(self.tokens), batch_size), "samples", unit=" batches"):
            part = slice(begin, begin + batch_size)
            missing = batch_size - len(self.tokens[part])
            tokens = np.pad(self.tokens[part], ((0, missing), (0, 0)))
            lengths = np.pad(self.lengths[part], (0, missing))[:, None]
            starts = np.pad(self.starts[part], (0, missing))[:, None]
            valid = slots < lengths
            yield CalibrationBatch(tokens, valid, valid & (slots >= starts))


def read_text(path: Path, tokenizer: Tokenizer) -> list[np.ndarray]:
    """Token rows of a text file, one a line; blank lines are no rows.

    Raises:
      InputError: missing, not UTF-8, or without a line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as text ({error})") from error
    rows = encode_lines(lines, tokenizer)
    if not rows:
        raise InputError(f"{path}: no line with text in it")
    return rows


def encode_lines(lines: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Token rows of the lines that are not blank, each begun as the tokenizer begins a text."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    filled = [line.strip() for line in lines if line.strip()]
    rows = (start + tokenizer.encode(line) for line in tqdm(filled, "tokenising", delay=1))
    return [np.array(row, np.int32) for row in rows]


def from_examples(
    examples: Sequence[Example], positions: str
) -> tuple[list[np.ndarray], list[int]]:
    """Prompt and answer as one row each, and where counting starts in it."""
    rows = [np.concatenate([e.prompt, e.answer]) for e in examples]
    return rows, [len(e.prompt) if positions == "answer" else 0 for e in examples]


def join(rows: Sequence[np.ndarray], count: int, length: int) -> Samples:
    """Puts rows one behind the other and cuts them into `count` samples of `length` tokens.

    No slot is padding; what does not fill the last sample is left out.

    Raises:
      InputError: there is not enough text for one sample.
    """
    tokens = np.concatenate(rows)
    whole = min(count, len(tokens) // length)
    if not whole:
        raise InputError(
            f"calibrate: {len(tokens)} tokens in all, expected at least one sample of {length}"
        )
    _report_missing(whole, count)
    samples = tokens[: whole * length].reshape(whole, length)
    return Samples(samples, np.full(whole, length, np.int32), np.zeros(whole, np.int32))


def select(
    rows: Sequence[np.ndarray], starts: Sequence[int], count: int, length: int, longest: bool
) -> Samples:
    """Takes `count` rows, the longest or the first, and cuts them at `length` tokens.

    The reference takes the 512 longest rows of wikitext, cut at 512 tokens. Rows in which
    nothing is left to count after the cut are passed over and reported.

    Raises:
      InputError: no row is left.
    """
    usable = [i for i in range(len(rows)) if starts[i] < min(len(rows[i]), length)]
    if len(usable) < len(rows):
        logging.warning(
            "calibrate: %d of %d rows have nothing to count within %d tokens and are passed over",
            len(rows) - len(usable), len(rows), length,
        )  # fmt: skip
    if not usable:
        raise InputError(f"calibrate: no row has a token that counts within {length} tokens")
    if longest:
        usable.sort(key=lambda i: -len(rows[i]))
    chosen = usable[:count]
    _report_missing(len(chosen), count)
    lengths = np.array([min(len(rows[i]), length) for i in chosen], np.int32)
    tokens = np.zeros((len(chosen), lengths.max()), np.int32)
    for row, i in enumerate(chosen):
        tokens[row, : lengths[row]] = rows[i][:length]
    return Samples(tokens, lengths, np.array([starts[i] for i in chosen], np.int32))


def save_samples(path: Path, samples: Samples) -> None:
    """Writes the samples as one `.npz`."""
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dataclasses.asdict(samples))


def load_samples(path: Path) -> Samples:
    """Reads what `save_samples` wrote.

    Raises:
      InputError: missing or not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Samples(arrays["tokens"], arrays["lengths"], arrays["starts"])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the calibrate stage writes it") from error
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of calibration samples ({error})") from error


def _report_missing(found: int, count: int) -> None:
    if found < count:
        logging.warning("calibrate: %d samples where %d were asked for", found, count)
