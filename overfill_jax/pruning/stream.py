"""Calibration batches from text or tokens as they come, of which never more than one is held."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Array, Int

from overfill_jax.data.tokenizers import Tokenizer
from overfill_jax.errors import InputError
from overfill_jax.pruning.importance import CalibrationBatch
from overfill_jax.pruning.samples import encode_line

# Batches are padded to multiples of this, so that few shapes are compiled.
SLOTS = 64


def text_batches(
    text: Iterable[str], tokenizer: Tokenizer, length: int, batch_size: int
) -> Iterator[CalibrationBatch]:
    """Batches of `batch_size` lines, cut at `length` tokens; blank lines are no samples.

    Raises:
      InputError: a sample is no text.
    """
    text = (_as_text(number, line) for number, line in enumerate(text))
    rows = (encode_line(line, tokenizer)[:length] for line in text if line.strip())
    while chunk := list(itertools.islice(rows, batch_size)):
        slots = -(-max(map(len, chunk)) // SLOTS) * SLOTS
        tokens = np.zeros((batch_size, slots), np.int32)
        valid = np.zeros(tokens.shape, bool)
        for number, row in enumerate(chunk):
            tokens[number, : len(row)], valid[number, : len(row)] = row, True
        yield CalibrationBatch(tokens, valid, valid)


def token_batches(
    batches: Iterable[Int[Array | np.ndarray, "B T"]], vocab_size: int
) -> Iterator[CalibrationBatch]:
    """Batches without padding.

    Raises:
      InputError: one is no [B, T] of whole numbers, or holds a token that the model lacks.
    """
    for number, batch in enumerate(batches):
        tokens = _as_array(batch)
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size:
            raise InputError(
                f"calibrate: batch {number} has shape {tokens.shape} and dtype {tokens.dtype}, "
                "expected tokens [B, T]"
            )
        if not 0 <= tokens.min() <= tokens.max() < vocab_size:
            raise InputError(
                f"calibrate: batch {number} has tokens {tokens.min()}..{tokens.max()}, expected "
                f"0..{vocab_size - 1}"
            )
        every = np.ones(tokens.shape, bool)
        yield CalibrationBatch(tokens.astype(np.int32), every, every)


def _as_text(number: int, line: object) -> str:
    if not isinstance(line, str):
        raise InputError(
            f"calibrate: sample {number} is {type(line).__name__}, expected text as the first is"
        )
    return line


def _as_array(batch: object) -> np.ndarray:
    try:
        return np.asarray(batch)
    except ValueError:  # rows of different lengths
        return np.asarray(None)
