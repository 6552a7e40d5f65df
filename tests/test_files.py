"""Files whole or not at all, whoever is killed on the way."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from overfill_jax import files
from overfill_jax.errors import InputError


@pytest.fixture(scope="module")
def dead():
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(parent, name, tag, process, host=None):
    """A folder as a killed run leaves it."""
    folder = parent / f".{name}.{tag}-{host or socket.gethostname()}-{process}"
    folder.mkdir()
    (folder / "weights").write_text(tag)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_takes_a_name_is_on_the_disk_before_and_the_name_itself_after(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name.partition(".tmp-")[0], (tmp_path / "new").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    files.write_text(tmp_path / "new", "text")
    assert synced == [(".new", False), (tmp_path.name, True)]
    (tmp_path / "new").unlink()
    synced.clear()
    with files.replace_folder(tmp_path / "new") as folder:
        (folder / "weights").write_text("text")
        (folder / "away").symlink_to("nowhere")
    assert synced == [("weights", False), (".new", False), (tmp_path.name, True)]


@pytest.mark.parametrize(("number", "written"), [(errno.EINVAL, "new"), (errno.EIO, "old")])
def test_a_disk_that_fails_is_said_and_one_that_cannot_tell_is_believed(
    tmp_path, monkeypatch, number, written
):
    (tmp_path / "file").write_text("old")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    failing = pytest.raises(OSError, match=r"output error: .*file\.tmp-")
    with failing if written == "old" else contextlib.nullcontext():
        files.write_text(tmp_path / "file", "new")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == written


def test_what_was_moved_aside_comes_back(tmp_path, dead):
    left(tmp_path, "full", "old", dead)
    left(tmp_path, "full", "tmp", dead)
    (tmp_path / f".answers.jsonl.tmp-{socket.gethostname()}-{dead}").write_text("half")
    (tmp_path / ".hidden-1").write_text("somebody's own")
    files.recover(tmp_path)
    assert names(tmp_path) == [".hidden-1", "full"]
    assert (tmp_path / "full" / "weights").read_text() == "old"


def test_the_folders_of_a_folder_are_looked_at_too(tmp_path, dead):
    (tmp_path / "joint").mkdir()
    left(tmp_path / "joint", "decoder", "old", dead)
    files.recover(tmp_path)
    assert names(tmp_path / "joint") == ["decoder"]


def test_what_was_replaced_does_not_come_back(tmp_path, dead):
    (tmp_path / "full").mkdir()
    left(tmp_path, "full", "old", dead)
    files.recover(tmp_path)
    assert names(tmp_path) == ["full"]
    assert names(tmp_path / "full") == []


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path, dead):
    left(tmp_path, "full", "old", dead).rename(tmp_path / "shared")
    (tmp_path / "data").symlink_to("shared")
    with files.replace_folder(tmp_path / "data") as folder:
        (folder / "rows").write_text("own")
    assert names(tmp_path) == ["data", "shared"]
    (tmp_path / f".data.old-{socket.gethostname()}-{dead}").symlink_to("shared")
    files.recover(tmp_path)
    assert names(tmp_path) == ["data", "shared"]
    assert names(tmp_path / "data") == ["rows"] and names(tmp_path / "shared") == ["weights"]


def test_a_link_that_leads_nowhere_is_replaced(tmp_path):
    (tmp_path / "full").symlink_to("gone")
    with files.replace_folder(tmp_path / "full") as folder:
        (folder / "weights").write_text("new")
    assert names(tmp_path) == ["full"]
    assert names(tmp_path / "full") == ["weights"]


def test_a_run_that_lives_or_is_elsewhere_is_left_alone(tmp_path, dead):
    kept = [
        left(tmp_path, "full", "tmp", os.getppid()),
        left(tmp_path, "full", "old", os.getppid()),
        left(tmp_path, "full", "old", dead, host="another-host"),
    ]
    files.recover(tmp_path)
    assert names(tmp_path) == sorted(path.name for path in kept)


def test_the_next_writer_clears_up_for_its_own_target_only(tmp_path, dead):
    other = left(tmp_path, "full2", "tmp", dead)
    left(tmp_path, "full", "tmp", dead)
    left(tmp_path, "full", "old", os.getpid())  # as in a container, where numbers repeat
    with pytest.raises(KeyError), files.replace_folder(tmp_path / "full"):
        raise KeyError("lost")
    assert names(tmp_path) == [other.name, "full"]
    with files.replace_folder(tmp_path / "full") as folder:
        (folder / "new").touch()
    assert names(tmp_path / "full") == ["new"]


def test_a_folder_is_no_place_for_a_file(tmp_path):
    with (
        pytest.raises(InputError, match="found a folder, expected a file to write to"),
        files.replace_file(tmp_path),
    ):
        pytest.fail("the work was begun")


def test_only_objects_are_objects(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"list\.json: found a JSON list, expected an object"):
        files.read_object(path)


def test_what_could_not_be_written_is_refused_before(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    files.check_writable(tmp_path / "file", tmp_path / "new", tmp_path / "results" / "new" / "file")
    for target, message in (
        (tmp_path / "folder", "folder: found a folder, expected a file to write to"),
        (tmp_path / "file" / "a" / "b", rf"b: cannot be written \({tmp_path / 'file'} is a file\)"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_writable(tmp_path / "new", target)
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_without_rights_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=rf"new/file: cannot be written \({tmp_path} is not writ"):
        files.check_writable(tmp_path / "new" / "file")
