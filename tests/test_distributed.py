"""Jobs of real processes: they agree, save together, and end together with the right status."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from overfill_jax import distributed
from overfill_jax.errors import InputError
from tests.conftest import REPOSITORY, simulated
from tests.job import EXCEPTION, HEARTBEAT_TIMEOUT, INPUT_ERROR, MEET, TRAIN, WORK

pytestmark = pytest.mark.slow

CONFIG = REPOSITORY / "configs" / "default.py"
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": simulated(2),
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONUNBUFFERED": "1",
}


def start(folder, arguments, stage="train"):
    """One process of `tests.job` in `folder`."""
    command = [sys.executable, "-m", "tests.job", stage, f"--config={CONFIG}", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, **pipes)


@pytest.fixture
def job(tmp_path):
    """Starts two processes; they are gone after the test, whatever became of it."""
    processes = []

    def start_both(seed, workdir=tmp_path, folders=(REPOSITORY, REPOSITORY), others=()):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        common = [f"--workdir={workdir}", f"--config.seed={seed}", "--processes=2"]
        common.append(f"--coordinator=localhost:{port}")
        own = [[], others]
        started = [
            start(folder, [*common, f"--process_index={index}", *own[index]])
            for index, folder in enumerate(folders)
        ]
        processes.extend(started)
        return started

    yield start_both
    for process in processes:
        process.kill()
        process.communicate()


def end(processes, seconds=60):
    """Status, stdout and stderr of each process."""
    texts = [process.communicate(timeout=seconds) for process in processes]
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def errors(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def until_running(processes):
    for process in processes:
        assert "runs" in process.stdout.readline()


def test_two_processes_meet(job, tmp_path):
    (status, out, err), (status_1, out_1, err_1) = end(job(MEET))
    assert (status, status_1) == (0, 0), err + err_1
    assert "met [[0], [1]] of 4 devices" in out
    assert "met [[0], [1]] of 4 devices" in out_1
    assert "peak memory" in err
    assert "peak memory" not in err_1  # of other processes only warnings
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("seed", "status", "message"),
    [
        pytest.param(INPUT_ERROR, 2, "row 3: found nothing", id="input-error"),
        pytest.param(EXCEPTION, 1, "KeyError: 'lost'", id="exception", marks=pytest.mark.long),
    ],
)
def test_what_one_process_fails_with_ends_both_in_seconds(job, seed, status, message):
    processes = job(seed)
    until_running(processes)
    began = time.monotonic()
    for found, _, err in end(processes):
        assert found == status, err
        assert errors(err) == [f"error: process 1: {message}"]
    assert time.monotonic() - began < 20
    assert ("Traceback" in err) == (status == 1)  # where it happened


def test_different_configs_are_refused_by_every_process(job):
    ended = end(job(MEET, others=["--config.train.steps=7"]))
    for index, (status, out, err) in enumerate(ended):
        assert status == 2, err
        assert errors(err) == [
            f"error: process {index}: the processes run different configs: "
            "train.steps is 0 in process 0, 7 in process 1"
        ]
        assert "runs" not in out


def test_a_key_that_only_one_process_stumbles_on_ends_both(job):
    for status, _, err in end(job(MEET, others=["--config.train.stepz=7"])):
        assert status == 2, err
        (error,) = errors(err)
        assert error.startswith("error: process 1: config: unknown key")
        assert "stepz" in error


def test_a_workdir_that_is_not_shared_is_refused(job, tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    for status, _, err in end(job(MEET, workdir="runs", folders=folders)):
        assert status == 2, err
        assert "error: process 1: runs: not the folder that process 0 has there" in err
    assert not list(tmp_path.rglob(".shared-*"))


def test_sigterm_to_one_process_stops_both_after_the_same_step(job, tmp_path):
    processes = job(TRAIN)
    until_running(processes)
    time.sleep(0.3)
    processes[1].send_signal(signal.SIGTERM)
    (status, out, err), (status_1, out_1, err_1) = end(processes)
    assert (status, status_1) == (0, 0), err + err_1
    step = (tmp_path / "stopped-0").read_text()
    assert step == (tmp_path / "stopped-1").read_text()
    assert f"preempted: saved after step {step} of 600; the same command goes on" in out
    assert "preempted" not in out_1


def test_who_loses_another_process_ends(job):
    """Whether that was the coordinator or not; a process that is killed says nothing."""
    jobs = [job(TRAIN), job(TRAIN)]
    for processes in jobs:
        until_running(processes)
    for killed, processes in enumerate(jobs):
        processes[killed].kill()
    began = time.monotonic()
    survivors = [processes[1 - killed] for killed, processes in enumerate(jobs)]
    for status, _, err in end(survivors):
        assert status != 0, err
    assert time.monotonic() - began < HEARTBEAT_TIMEOUT + 15


def test_a_failure_is_reported_although_nobody_reads_what_is_printed(monkeypatch):
    reported = []

    class Client:
        def key_value_set(self, key, value):
            reported.append((key, json.loads(value)))

    class Closed(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(distributed.global_state, "client", Client())
    monkeypatch.setattr(distributed.global_state, "num_processes", 2)
    monkeypatch.setattr(distributed, "_failing", threading.Event())
    monkeypatch.setattr(distributed.time, "sleep", lambda _: None)
    monkeypatch.setattr(distributed.os, "_exit", sys.exit)
    monkeypatch.setattr(sys, "stderr", Closed())
    for message in ("row 3", "the other thread's"):
        with pytest.raises(SystemExit) as ended:
            distributed.fail(2, message)
        assert ended.value.code == 2
    assert reported == [("overfill_jax/failure", [2, 0, "row 3"])]


@pytest.mark.parametrize(
    ("stage", "seed", "message"),
    [
        ("train", TRAIN, "saved after step"),
        ("experiment", TRAIN, "saved after step"),
        ("experiment", WORK, "ended in 'evaluate' of seed-4"),
    ],
)
def test_one_process_ends_on_sigterm_too_and_launchers_can_tell(tmp_path, stage, seed, message):
    settings = [f"--config.seed={seed}", f"--config.experiment.seeds=({seed},)"]
    begun = "train" if seed == TRAIN else "evaluate"
    settings.append(f"--config.experiment.stages=('{begun}','prune')")
    process = start(
        REPOSITORY, [f"--workdir={tmp_path}", *settings, "--preempted_status=75"], stage
    )
    try:
        until_running([process])
        process.send_signal(signal.SIGTERM)
        ((status, out, err),) = end([process])
    finally:
        process.kill()
        process.communicate()
    assert status == 75, err
    assert f"preempted: {message}" in out
    assert "the same command goes on" in out
    assert not any("failed" in line for line in err.splitlines())


def test_ctrl_c_takes_one_line_and_ends_the_shells_loop_as_well(tmp_path):
    # What a shell runs in the background does not listen to it, nor does what that starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(REPOSITORY, [f"--workdir={tmp_path}", f"--config.seed={TRAIN}"])
    signal.signal(signal.SIGINT, before)
    until_running([process])
    process.send_signal(signal.SIGINT)
    ((status, _, err),) = end([process])
    assert status == -signal.SIGINT
    assert err.splitlines()[-1:] == ["interrupted"]
    assert "Traceback" not in err


def test_work_that_ends_at_once_leaves_the_signal_as_it_was(monkeypatch):
    monkeypatch.setattr(distributed, "_preempted", threading.Event())
    before = signal.getsignal(signal.SIGTERM)
    with distributed.ending_at_once("nobody listens"):
        assert signal.getsignal(signal.SIGTERM) is before
    try:
        distributed.start("", 1, 0, preemptible=True)
        work = distributed.ending_at_once("in the work")
        with pytest.raises(distributed.Preempted, match="in the work"), work:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert distributed.preempted()
        assert signal.getsignal(signal.SIGTERM) is distributed._told_to_end
        work = distributed.ending_at_once("in the next")
        with pytest.raises(distributed.Preempted, match="in the next"), work:
            pytest.fail("was begun")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 2, 0), "2 processes and no coordinator"),
        (("host", 2, 0), "expected HOST:PORT or 'auto'"),
        (("host:80", 2, 2), "found 2, expected one of 2 from 0"),
        (("host:80", 0, 0), "found 0, expected one of 0 from 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        distributed.start(*arguments, preemptible=True)


def test_differences_name_keys_values_and_processes():
    found = {"0, 2-4": {"seed": 1, "same": "a"}, "1": {"seed": 2, "same": "a"}, "5": {"seed": 1}}
    assert distributed._differences(found) == (
        'same is "a" in process 0, 2-4, 1, "not there" in process 5; '
        "seed is 1 in process 0, 2-4, 5, 2 in process 1"
    )
    assert distributed._ranges([4, 0, 3, 2]) == "0, 2-4"
