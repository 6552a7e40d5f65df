"""The command line refuses in one line, with exit status 2, and shows where only if asked."""

import os
import subprocess
import sys

import pytest

from configs.default import get_config
from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.stages import run_stage
from tests.conftest import REPOSITORY


def run(*arguments):
    command = [sys.executable, "-m", "overfill_jax.main", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--config.prune.hiden=0.3"], 'Did you mean "hidden"'),
        (["prune", "--config.prune.hidden=wide"], "could not convert string to float: 'wide'"),
        (["trian"], "unknown stage 'trian'; did you mean 'train'?"),
        (["prune", "--config=configs/nowhere.py"], "configs/nowhere.py"),
        (["convert"], "convert.source"),
    ],
)
def test_one_line_and_exit_status_2(tmp_path, arguments, message):
    done = run(*arguments, f"--workdir={tmp_path}")
    assert done.returncode == 2
    line, *rest = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not rest


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("convert", f"--workdir={tmp_path / 'file'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'file'}: cannot be made a workdir")


def test_the_traceback_comes_when_asked_for(tmp_path):
    done = run("convert", f"--workdir={tmp_path}", "--traceback")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_bucket_is_no_workdir():
    done = run("prune", "--workdir=gs://bucket/run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: gs://bucket/run: found an address, expected a folder")
    assert not (REPOSITORY / "gs:").exists()


def test_many_processes_need_a_coordinator(tmp_path):
    done = run("train", f"--workdir={tmp_path}", "--processes=2")
    assert done.returncode == 2
    assert done.stderr == ("error: found 2 processes and no coordinator, expected its HOST:PORT\n")


def test_stages_that_write_in_every_process_are_refused_in_many(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    with pytest.raises(InputError, match="prune: found 2 processes, expected one"):
        run_stage("prune", get_config(), tmp_path)
    assert not list(tmp_path.iterdir())
