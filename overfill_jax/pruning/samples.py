"""The text that importance is measured on: samples of tokens, cut, padded, and kept with it."""

import dataclasses
import zipfile
from collections.abc import Iterable, Iterator, Sequence
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
class Row:
    """Tokens of one row of the source, and where its answer begins; 0 where it has none."""

    tokens: Int[np.ndarray, "T"]
    answer: int

    def start(self, positions: str) -> int:
        """Where counting starts."""
        return self.answer if positions == "answer" else 0


@dataclasses.dataclass(frozen=True)
class Samples:
    """Right-padded token rows.

    Attributes:
      tokens: [M, T].
      lengths: [M].
      starts: [M], where counting starts.
      answers: [M], where the answer begins; 0 where there is none.
    """

    tokens: Int[np.ndarray, "M T"]
    lengths: Int[np.ndarray, "M"]
    starts: Int[np.ndarray, "M"]
    answers: Int[np.ndarray, "M"]

    def of_answers(self) -> "Samples | None":
        """The same with the answers' tokens counted alone; None where there are none."""
        if not np.any((self.answers > 0) & (self.answers < self.lengths)):
            return None
        return dataclasses.replace(self, starts=self.answers)

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


def read_text(path: Path, tokenizer: Tokenizer) -> Iterator[Row]:
    """Token rows of a text file, one a line, as they are needed; blank lines are no rows.

    Raises:
      InputError: missing, not UTF-8, or without a line.
    """
    try:
        # Not splitlines: text may hold what Unicode, too, counts as a line's end.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as text ({error})") from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{path}: no line with text in it")
    return (Row(tokens, answer=0) for tokens in encode_lines(lines, tokenizer))


def encode_lines(lines: Sequence[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Token rows of the lines that are not blank."""
    filled = [line for line in lines if line.strip()]
    for line in tqdm(filled, "tokenising", delay=1):
        yield encode_line(line, tokenizer)


def encode_line(line: str, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """Tokens of a line, begun as the tokenizer begins a text."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return np.array(start + tokenizer.encode(line.strip()), np.int32)


def from_examples(examples: Iterable[Example]) -> Iterator[Row]:
    """Prompt and answer as one row each."""
    return (Row(np.concatenate([e.prompt, e.answer]), len(e.prompt)) for e in examples)


def join(rows: Iterable[Row], count: int, length: int) -> Samples:
    """Puts rows one behind the other and cuts them into `count` samples of `length` tokens.

    No slot is padding; what does not fill the last sample is left out, and what comes behind it is
    not read.

    Raises:
      InputError: there is not enough text for one sample.
    """
    joined, total = [np.zeros(0, np.int32)], 0
    for row in rows:
        joined.append(row.tokens)
        total += len(row.tokens)
        if total >= count * length:
            break
    whole = min(count, total // length)
    if not whole:
        raise InputError(
            f"calibrate: {total} tokens in all, expected at least one sample of {length}"
        )
    _report_missing(whole, count)
    samples = np.concatenate(joined)[: whole * length].reshape(whole, length)
    zeros = np.zeros(whole, np.int32)
    return Samples(samples, np.full(whole, length, np.int32), starts=zeros, answers=zeros)


def select(rows: Iterable[Row], positions: str, count: int, length: int, longest: bool) -> Samples:
    """Takes `count` rows, the longest or the first, and cuts them at `length` tokens.

    The reference takes the 512 longest rows of wikitext, cut at 512 tokens. Rows in which
    nothing is left to count after the cut are passed over and reported. Behind the last of the
    first, nothing is read.

    Raises:
      InputError: no row is left.
    """
    usable, seen = [], 0
    for row in rows:
        seen += 1
        if row.start(positions) < min(len(row.tokens), length):
            usable.append(row)
        if not longest and len(usable) == count:
            break
    if len(usable) < seen:
        logging.warning(
            "calibrate: %d of %d rows have nothing to count within %d tokens and are passed over",
            seen - len(usable), seen, length,
        )  # fmt: skip
    if not usable:
        raise InputError(f"calibrate: no row has a token that counts within {length} tokens")
    if longest:
        usable.sort(key=lambda row: -len(row.tokens))
    chosen = usable[:count]
    _report_missing(len(chosen), count)
    lengths = np.array([min(len(row.tokens), length) for row in chosen], np.int32)
    tokens = np.zeros((len(chosen), lengths.max()), np.int32)
    for place, row in enumerate(chosen):
        tokens[place, : lengths[place]] = row.tokens[:length]
    starts, answers = (
        np.array(numbers, np.int32)
        for numbers in ([row.start(positions) for row in chosen], [row.answer for row in chosen])
    )
    return Samples(tokens, lengths, starts, answers)


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
            return Samples(**{f.name: arrays[f.name] for f in dataclasses.fields(Samples)})
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the calibrate stage writes it") from error
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of calibration samples ({error})") from error


def _report_missing(found: int, count: int) -> None:
    if found < count:
        logging.warning("calibrate: %d samples where %d were asked for", found, count)
