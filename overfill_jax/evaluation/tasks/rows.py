"""Rows of a benchmark's file: which fields they must have, and errors that name the line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from overfill_jax.data.jsonl import parse, read_lines
from overfill_jax.errors import InputError


def read_rows(path: Path, fields: Mapping[str, type]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, row) for every line that is not blank.

    Args:
      path: a JSONL file.
      fields: the type that each field of a row must have.

    Raises:
      InputError: the file is missing or empty, or a row is malformed; names the line.
    """
    number = 0
    for number, line in read_lines(path):
        try:
            row = parse(line)
            for name, kind in fields.items():
                _check(row, name, kind)
        except InputError as error:
            raise InputError(f"{path}:{number}: found {error}") from error
        yield number, row
    if not number:
        raise InputError(f"{path}: found no rows, expected at least one question")


def _check(row: dict, name: str, kind: type) -> None:
    if name not in row:
        raise InputError(f"no {name!r}, expected one of type {kind.__name__}")
    if type(row[name]) is not kind:
        raise InputError(f"{name!r} is {row[name]!r:.60}, expected {kind.__name__}")


def check_shots(shots: int, most: int) -> None:
    """Refuses more examples than there are.

    Raises:
      InputError: says how many there may be.
    """
    if not 0 <= shots <= most:
        raise InputError(f"score.shots: found {shots}, expected 0 to {most} for this task")
