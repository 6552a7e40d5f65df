"""Files that are written whole or not at all, and read with errors that name them."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from overfill_jax.errors import InputError

# Of file systems that cannot tell when something is on the disk.
_CANNOT_SYNC = (errno.EINVAL, errno.EROFS, errno.ENOTSUP, errno.ENOSYS)

# What `_beside` names: target, kind, host and process.
_LEFTOVER = re.compile(r"\.(?P<target>.+)\.(?P<tag>tmp|old)-(?P<host>.+)-(?P<process>\d+)")


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place only if the block succeeds.

    A failure inside the block removes the new folder and leaves the old `target` as it was.

    Raises:
      InputError: the parent folder cannot be written, or `target` is a file.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: found a file, expected a folder to write to")
    temporary, old = _beside(target, "tmp"), _beside(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target.parent, glob.escape(target.name))
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield temporary
        _sync(*temporary.rglob("*"), temporary)
        if target.exists() or target.is_symlink():  # one that leads nowhere is in the way, too
            target.rename(old)
        temporary.rename(target)
        _sync(target.parent)
        _remove(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` whose file takes its place only if the block succeeds.

    Raises:
      InputError: the parent folder cannot be written, or `target` is a folder.
    """
    if target.is_dir():
        raise InputError(f"{target}: found a folder, expected a file to write to")
    temporary = _beside(target, "tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target.parent, glob.escape(target.name))
        temporary.touch()
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(*targets: Path) -> None:
    """Refuses files that `replace_file` could not write, before the work that they are for.

    Raises:
      InputError: names the target, and what is in its way.
    """
    for target in targets:
        if target.is_dir():
            raise InputError(f"{target}: found a folder, expected a file to write to")
        place = next(path for path in target.absolute().parents if path.exists())
        if not place.is_dir():
            raise InputError(f"{target}: cannot be written ({place} is a file)")
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{target}: cannot be written ({place} is not writable)")


def recover(folder: Path) -> None:
    """Clears up what killed runs left in `folder` and the folders in it: what is half-written goes,
    what was moved aside comes back.

    Only of processes that are gone, and of this host: those of another, on a shared disk, may be
    writing still. This process itself must not be writing there.
    """
    for place in (folder, *folder.glob("*/")):
        _recover(place, "*")


def _recover(folder: Path, targets: str) -> None:
    for path in folder.glob(f".{targets}.*-*"):
        left = _LEFTOVER.fullmatch(path.name)
        if left is None or left["host"] != socket.gethostname() or _runs(int(left["process"])):
            continue
        target = path.with_name(left["target"])
        if left["tag"] == "old" and not target.exists():
            path.rename(target)
            logging.warning("%s: is back; a run that was killed had moved it aside", target)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # of a link only the link goes
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object from `path`.

    Raises:
      InputError: the file is missing, is not JSON or holds anything but an object.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: found a JSON {type(found).__name__}, expected an object")
    return found


def _sync(*paths: Path) -> None:
    """Waits until the disk has files and folders: a machine that fails must not find a new name on
    it and nothing behind that.
    """
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(descriptor)


def _beside(target: Path, tag: str) -> Path:
    # Host and process keep two runs on one workdir from sharing a half-written folder, and tell
    # later ones whether its writer is still there.
    return target.with_name(f".{target.name}.{tag}-{socket.gethostname()}-{os.getpid()}")


def _runs(process: int) -> bool:
    """Whether another process of this number runs; ours is new, so that its number is no sign."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True
