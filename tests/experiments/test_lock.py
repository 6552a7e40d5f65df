"""A lock is held by one, and let go of however its holder ends."""

import errno
import fcntl
import signal
import subprocess
import sys

import pytest

from overfill_jax.errors import InputError
from overfill_jax.experiments.lock import locked

HOLDER = """
import pathlib, sys
from overfill_jax.experiments.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_lets_go(tmp_path):
    path = tmp_path / "folder" / "a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        held = rf"a\.lock: held by process {holder.pid} on \S+,"
        with pytest.raises(InputError, match=held), locked(path):
            pytest.fail("it is held twice")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    with locked(path):
        assert path.read_text().startswith("process ")
        assert path.read_text().count("\n") == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.lock"
    with pytest.raises(InputError, match=r"file/a\.lock: cannot be written"), locked(path):
        pytest.fail("it is held")


def test_storage_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "a.lock"):
        assert "a.lock: cannot be locked (Operation not supported)" in caplog.text
