"""Kills training runs at random moments and compares what they learn with a run left alone.

    python -m tests.interruptions --workdir=DIR [--kills=10] [--processes=1]

Prints a table; ends with 1 if a resumed run's losses are not those of the undisturbed one, bit for
bit. DIR is a new folder; the compiled programs are kept in it, so that a start takes seconds.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from overfill_jax import files
from overfill_jax.stages import run_stage
from tests.conftest import REPOSITORY

CONFIG = """
from pathlib import Path

from tests.test_pipeline import make_config


def get_config():
    config = make_config(Path({workdir!r}))
    config.train.steps, config.train.batch_size = {steps}, 8
    config.train.validate_every, config.train.checkpoint_every = 50, 5
    config.train.packing, config.train.sequence_length = True, 192
    return config
"""


@dataclasses.dataclass(frozen=True)
class Interruption:
    """One kill: the signal, how long after the first step, what the run had saved by then."""

    signal: str
    seconds: float
    status: int
    saved: int


def prepare(workdir: Path, steps: int) -> None:
    """Everything that training reads."""
    from tests.test_pipeline import SHAPE, make_config

    workdir.mkdir(parents=True)
    files.write_json(workdir / "shape.json", SHAPE)
    (workdir / "config.py").write_text(CONFIG.format(workdir=str(workdir), steps=steps))
    for stage in ("data", "init", "calibrate", "prune"):
        run_stage(stage, make_config(workdir), workdir)


def start(workdir: Path, processes: int) -> list[subprocess.Popen]:
    """The processes of one run."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(workdir / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // processes}",
    }
    command = [sys.executable, "-m", "overfill_jax.main", "train"]
    command += [f"--config={workdir / 'config.py'}", f"--workdir={workdir}", "--config.mesh.fsdp=2"]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command += [f"--coordinator={address}", f"--processes={processes}"]
    return [
        subprocess.Popen(
            [*command, *([f"--process_index={index}"] if processes > 1 else [])],
            cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]  # fmt: skip


def finish(workdir: Path, processes: int) -> dict[int, tuple[float, float]]:
    """Runs until the end; loss and gradient norm of every step."""
    running = start(workdir, processes)
    texts = [process.communicate()[0] for process in running]
    for process, text in zip(running, texts, strict=True):
        if process.returncode:
            raise RuntimeError(f"status {process.returncode}: {text}")
    return learnt(workdir)


def learnt(workdir: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of every step that is recorded."""
    path = workdir / "metrics/two_stage/metrics.jsonl"
    rows = map(json.loads, path.read_text().splitlines())
    return {row["step"]: (row["loss"], row["gradient_norm"]) for row in rows if "loss" in row}


def interrupt(workdir: Path, processes: int, kind: str, seconds: float) -> Interruption:
    """Starts the run, lets it take a step, and ends it `seconds` later by the signal."""
    path = workdir / "metrics/two_stage/metrics.jsonl"
    running = start(workdir, processes)
    before = path.stat().st_size if path.exists() else 0
    while all(p.poll() is None for p in running):
        if path.exists() and path.stat().st_size != before:
            break
        time.sleep(0.02)
    time.sleep(seconds)
    # A machine that fails takes one process; the notice of preemption reaches all.
    victims = running[-1:] if kind == "SIGKILL" else running
    for process in victims:
        process.send_signal(getattr(signal, kind))
    for process in running:
        process.communicate()
    saved = [int(p.name) for p in (workdir / "checkpoints/two_stage").iterdir() if p.name.isdigit()]
    status = running[0 if kind == "SIGTERM" else -1].returncode
    return Interruption(kind, seconds, status, max(saved, default=0))


def compare(
    workdir: Path, steps: int, kills: int, processes: int, kinds: Sequence[str], seed: int
) -> tuple[list[Interruption], bool]:
    """A run left alone and one that is interrupted again and again; whether they learn the same."""
    prepare(workdir / "run", steps)
    expected = finish(workdir / "run", processes)
    for name in ("checkpoints", "metrics", "decoder"):
        shutil.rmtree(workdir / "run" / name)
    draw = random.Random(seed)
    events = [
        interrupt(workdir / "run", processes, kinds[i % len(kinds)], draw.uniform(0, 1.0))
        for i in range(kills)
    ]
    return events, finish(workdir / "run", processes) == expected


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    kinds = ("SIGKILL", "SIGTERM")
    events, same = compare(given.workdir, 600, given.kills, given.processes, kinds, seed=0)
    print("| signal | after (s) | status | newest checkpoint |\n|---|---|---|---|")
    for event in events:
        print(f"| {event.signal} | {event.seconds:.2f} | {event.status} | {event.saved} |")
    print("losses of all steps are " + ("bit-equal" if same else "NOT EQUAL"))
    sys.exit(not same)


if __name__ == "__main__":
    main()
