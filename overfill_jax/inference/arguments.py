"""What a notebook passes as prompts and tokens, checked before anything is compiled for it.

An index that is out of range is no error to XLA, and its answer looks like any other. Values that
are traced, under a caller's own jit, are taken on trust; their shapes are not.
"""

import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from overfill_jax.data import conversations
from overfill_jax.errors import InputError
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig

ARRAYS = np.ndarray | jax.Array


def padded_prompts(
    tokens: object, lengths: object, config: ModelConfig
) -> tuple[Int[Array, "B P"], Int[Array, "B"]]:
    """Right-padded prompts and their lengths, as a model of this shape reads them.

    Raises:
      InputError: another shape or type, a length out of range, or a token that the model lacks.
    """
    tokens = _whole_numbers("prefill: tokens", tokens, "B P")
    lengths = _whole_numbers("prefill: lengths", lengths, "B")
    if lengths.shape != tokens.shape[:1]:
        raise InputError(
            f"prefill: found {len(lengths)} lengths, expected one for each of {len(tokens)} rows"
        )
    most = min(tokens.shape[1], config.max_position)
    _check_range("prefill: lengths", lengths, 1, most)
    _check_range("prefill: tokens", tokens, 0, config.vocab_size - 1)
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32)


def further_tokens(tokens: object, cache: KVCache, config: ModelConfig) -> Int[Array, "B T"]:
    """The next tokens of the rows of a cache, as a model of this shape reads them.

    Raises:
      InputError: another shape or type, rows that end beyond the model's last position, or a token
        that it lacks.
    """
    tokens = _whole_numbers("extend: tokens", tokens, "B T")
    if len(tokens) != len(cache.segments):
        raise InputError(
            f"extend: found {len(tokens)} rows of tokens, expected {len(cache.segments)} as in "
            "the cache"
        )
    _check_range("extend: tokens", tokens, 0, config.vocab_size - 1)
    room = config.max_position - tokens.shape[1]
    _check_range(f"extend: {tokens.shape[1]} tokens behind rows of", cache.lengths, 0, room)
    return jnp.asarray(tokens, jnp.int32)


def is_text(prompt: object) -> bool:
    """Whether a prompt is a question or a conversation, and not tokens."""
    messages = isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], dict)
    return isinstance(prompt, str) or messages


def check_several(prompts: object) -> None:
    """Refuses what is one prompt, or none.

    Raises:
      InputError: says what was found.
    """
    if not isinstance(prompts, Sequence | ARRAYS):
        raise InputError(f"generate: prompts is {_kind(prompts)}, expected a list of prompts")
    if isinstance(prompts, ARRAYS):
        single = prompts.ndim == 0 or (prompts.ndim == 1 and prompts.dtype.kind not in "UO")
    else:
        first = next(iter(prompts), "")
        scalar = isinstance(first, ARRAYS) and first.ndim == 0
        single = scalar or isinstance(first, dict | int | np.integer)
    if single or isinstance(prompts, str):
        raise InputError("generate: prompts is a single one, expected a list of prompts")


def messages_of(prompt: str | Sequence) -> list[dict]:
    """The conversation that a prompt of text is, up to the answer that is asked for.

    Raises:
      InputError: a message is empty, or is none.
    """
    row = {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
    return conversations.without_answer(row, "prompt")


def tokens_of(prompt: object, expected: str = "a row of tokens") -> list[int]:
    """The ids of a prompt of tokens; `expected` is what the error asks for.

    Raises:
      InputError: it holds anything but whole numbers in a row.
    """
    tokens = _array(prompt)
    if tokens.size and (tokens.ndim != 1 or tokens.dtype.kind not in "iu"):
        raise InputError(f"found {_kind(prompt)}, expected {expected}")
    return tokens.tolist()


def positive_numbers(name: str, values: object) -> list[int]:
    """Several whole numbers of at least 1, of whatever holds them.

    Raises:
      InputError: `name` is given anything else, or none.
    """
    try:
        numbers = list(values)
    except TypeError:  # not several
        numbers = []
    if not numbers or not all(whole(number) >= 1 for number in numbers):
        raise InputError(f"{name} is {numbers or values!r}, expected positive numbers")
    return [int(number) for number in numbers]


def whole(value: object) -> int | float:
    """A whole number of Python, numpy or JAX; anything else is NaN, which is in no range."""
    try:
        return operator.index(value)
    except TypeError:
        return math.nan


def real(value: object) -> float:
    """A number of Python, numpy or JAX; anything else is NaN, which is in no range."""
    try:
        return math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _whole_numbers(name: str, value: object, axes: str) -> ARRAYS:
    array = value if isinstance(value, jax.Array) else _array(value)
    if array.ndim != len(axes.split()) or array.dtype.kind not in "iu" or not array.size:
        raise InputError(
            f"{name}: found shape {array.shape} and dtype {array.dtype}, expected whole numbers "
            f"[{', '.join(axes.split())}]"
        )
    return array


def _check_range(name: str, values: ARRAYS, least: int, most: int) -> None:
    if isinstance(values, jax.core.Tracer):
        return
    values = np.asarray(values)
    if not least <= values.min() <= values.max() <= most:
        raise InputError(f"{name}: found {values.min()}..{values.max()}, expected {least}..{most}")


def _array(value: object) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.asarray(None)


def _kind(value: object) -> str:
    if isinstance(value, ARRAYS):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    inner = {type(entry).__name__ for entry in value} if isinstance(value, list | tuple) else ()
    return type(value).__name__ + (f" of {', '.join(sorted(inner))}" if inner else "")
