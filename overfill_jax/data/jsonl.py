"""Owns the lines of JSONL files: reading them with their numbers, and what is wrong with one."""

import json
from collections.abc import Iterator
from pathlib import Path

from overfill_jax.errors import InputError


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, line) for every line that is not blank.

    Raises:
      InputError: the file is missing or cannot be read.
    """
    try:
        with file.open("rb") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def parse(line: bytes) -> dict:
    """Returns the JSON object on a line.

    Raises:
      InputError: says what the line is instead; its file and number are the caller's to add.
    """
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"a JSON {type(value).__name__}, expected an object")
    return value
