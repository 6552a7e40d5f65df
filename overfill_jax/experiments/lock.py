"""A lock that keeps two processes from running the same stages at once."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from overfill_jax.errors import InputError


class HeldError(InputError):
    """Another process is at work on the same."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock on a file, which says who holds it; the file stays.

    The system lets go of it when the process ends, however it ends. Storage that has no locks is
    told of, and nothing is held.

    Raises:
      HeldError: by another process; names the file, the process and its host.
      InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise HeldError(
                f"{path}: held by {lock.read().strip() or 'another process'}, which runs the same "
                "stages; expected it to have ended, or another workdir"
            ) from error
        except OSError as error:
            logging.warning("%s: cannot be locked (%s), and nothing keeps a second process out",
                            path, error.strerror)  # fmt: skip
        else:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
        yield
