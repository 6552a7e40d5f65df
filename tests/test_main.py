"""The command line refuses in one line, with exit status 2, and shows where only if asked."""

import os
import re
import subprocess
import sys

import pytest

from configs.default import get_config
from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.stages import run_stage
from overfill_jax.weights.folders import save_model
from tests.builders import make_model
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
        (
            ["prune", "--config.prune.hiden=0.3"],
            """config: unknown key 'hiden'; Did you mean "hidden" instead of "hiden"?""",
        ),
        (
            ["prune", "--config.prun.hidden=0.3"],
            """config: unknown key 'prun'; Did you mean "prune" instead of "prun"?""",
        ),
        (["prune", "--config.prune.hidden=wide"], "could not convert string to float: 'wide'"),
        (["trian"], "unknown stage 'trian'; did you mean 'train'?"),
        (["prune", "--config=configs/nowhere.py"], "configs/nowhere.py"),
        (
            ["plan", "--config=configs/llama3_2_3b.py:aligne"],
            "ValueError: found widths 'aligne', expected one of paper, aligned "
            f"({REPOSITORY}/configs/_recipe.py, line ",
        ),
        (["train"], "pruned: no such folder, expected one with a model; the prune stage writes it"),
        (["convert"], "convert.source"),
        (["convert", "--workdir="], "workdir: found '', expected a folder"),
    ],
)
def test_one_line_and_exit_status_2(tmp_path, arguments, message):
    done = run(arguments[0], f"--workdir={tmp_path}", *arguments[1:])
    assert done.returncode == 2
    line, *rest = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not rest


@pytest.mark.slow
def test_plan_has_short_flags(tmp_path):
    at = ["--config.plan.model=configs/shapes/llama_7m.json", f"--workdir={tmp_path}"]
    at += ["--config.prune.multiple_of=32", "--config.train.batch_size=64"]
    asked = ["--chip=v5p", "--topology", "2x2x4", "--chips=4", "--batch=2", "--prompt=96"]
    asked += ["--answer", "48", "--weights=int4", "--cache=int8", "--refresh=16"]
    done = run("plan", *at, *asked)
    assert done.returncode == 0, done.stderr
    assert "16 chips v5p, 2x2x4" in done.stdout
    assert "On 4 v5p, batch 2, 96 in / 48 out, decoder in int4 and cache in int8" in done.stdout
    assert "refreshed every 16: two-stage answers in" in done.stdout
    done = run("plan", *at, "--chip=h100", "--topology=8", "--compile")
    assert "plan.compile: found chip 'h100', expected a TPU" in done.stderr
    done = run("prune", *at, "--chip=v5p")
    assert "Unknown command line flag 'chip'" in done.stderr


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("convert", f"--workdir={tmp_path / 'file'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'file'}: cannot be made a workdir")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            "state/ocdbt.process_0/d/*",
            r"Requested byte range .* is not valid for value of size \d+",
        ),
        ("state/d/*", "its description cannot be read"),
    ],
)
def test_a_truncated_model_is_one_line(tmp_path, data, reason):
    save_model(tmp_path / "full", make_model(), None)
    (file,) = (tmp_path / "full/params").glob(data)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = run("prune", f"--workdir={tmp_path}", "--config.prune.selection=first")
    assert done.returncode == 2
    message = rf"error: {tmp_path / 'full/params'}: damaged checkpoint \({reason}\)\n"
    assert re.fullmatch(message, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


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
