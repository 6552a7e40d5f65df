"""Files that are written whole or not at all, and read with errors that name them."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from overfill_jax.errors import InputError


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place only if the block succeeds.

    A failure inside the block removes the new folder and leaves the old `target` as it was.

    Raises:
      InputError: the parent folder cannot be written, or `target` is a file.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: found a file, expected a folder to write to")
    temporary = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield temporary
        old = _beside(target, "old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` whose file takes its place only if the block succeeds."""
    temporary = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` in UTF-8, whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> object:
    """Reads JSON from `path`.

    Raises:
      InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected JSON") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error


def _beside(target: Path, tag: str = "tmp") -> Path:
    # The process id keeps two runs on one workdir from sharing a half-written folder.
    return target.with_name(f".{target.name}.{tag}-{os.getpid()}")
