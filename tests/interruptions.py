"""Kills training runs at random moments and compares what they learn with a run left alone.

    python -m tests.interruptions --workdir=DIR [--kills=10] [--processes=1] [--steps=2000]

So many kills by SIGKILL, every second one in the midst of a save, and as many by SIGTERM, every
second one before the first step. Prints a table; ends with 1 if a resumed run's losses are not
those of the undisturbed one, bit for bit, or if a kill met nothing. DIR is a new folder;
compiled programs are kept until the end, so that a start takes seconds.
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
from collections.abc import Callable, Sequence
from pathlib import Path

from overfill_jax import files
from overfill_jax.stages import run_stage
from tests.conftest import REPOSITORY, simulated

CONFIG = """
from pathlib import Path

from tests.small_run import make_config


def get_config():
    config = make_config(Path({workdir!r}))
    config.train.steps, config.train.batch_size = {steps}, 8
    config.train.validate_every, config.train.checkpoint_every = 50, 5
    config.train.packing, config.train.sequence_length = True, 192
    return config
"""


@dataclasses.dataclass(frozen=True)
class Machines:
    """What a run is given: processes, simulated devices of each, and the mesh that they form."""

    processes: int
    devices: int
    mesh: tuple[int, int, int]


TWO_HOSTS = Machines(processes=2, devices=2, mesh=(1, 2, 2))


@dataclasses.dataclass(frozen=True)
class Interruption:
    """One kill: how, when, and what it met.

    Attributes:
      kind: of `KINDS`.
      seconds: behind the first step that no checkpoint has; behind the start, where it is then.
      status: of the process that was killed.
      saved: the newest finished checkpoint.
      unfinished: a save was under way.
    """

    kind: str
    seconds: float
    status: int
    saved: int
    unfinished: bool

    def met(self, steps: int) -> bool:
        """Whether it ended what was still running, and in the way that it was to."""
        expected = -signal.SIGKILL if self.kind.startswith("SIGKILL") else 0
        aimed = self.unfinished or self.kind != "SIGKILL in a save"
        return self.status == expected and self.saved < steps and aimed


LONGEST = 600  # seconds of a run, which hangs if it takes more

KINDS = ("SIGKILL", "SIGKILL in a save", "SIGTERM", "SIGTERM at the start")


def prepare(workdir: Path, steps: int) -> None:
    """Everything that training reads."""
    from tests.small_run import SHAPE, make_config

    workdir.mkdir(parents=True)
    files.write_json(workdir / "shape.json", SHAPE)
    (workdir / "config.py").write_text(CONFIG.format(workdir=str(workdir), steps=steps))
    for stage in ("data", "init", "calibrate", "prune"):
        run_stage(stage, make_config(workdir), workdir)


def start(
    workdir: Path,
    machines: Machines,
    overrides: Sequence[str] = (),
    folders: Sequence[Path] = (),
    largest_file: int | None = None,
) -> list[subprocess.Popen]:
    """The processes of one run.

    Args:
      workdir: that has been prepared.
      machines: which run it.
      overrides: of the config, such as `train.steps=7`.
      folders: that each process stands in; the repository, if none.
      largest_file: in blocks of 512 bytes, that the disk of the last process has room for.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
        "XLA_FLAGS": simulated(machines.devices),
    }
    command = [sys.executable, "-m", "overfill_jax.main", "train"]
    command += [f"--config={workdir / 'config.py'}", f"--workdir={workdir}"]
    axes = zip(("data", "fsdp", "tensor"), machines.mesh, strict=True)
    command += [f"--config.mesh.{axis}={size}" for axis, size in axes]
    command += [f"--config.{override}" for override in overrides]
    processes = machines.processes
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command += [f"--coordinator={address}", f"--processes={processes}"]

    limit = ["sh", "-c", f'ulimit -f {largest_file}; exec "$@"', "sh"] if largest_file else []
    return [
        subprocess.Popen(
            [
                *(limit if index == processes - 1 else ()),
                *command,
                *([f"--process_index={index}"] if processes > 1 else []),
            ],
            cwd=folders[index] if folders else REPOSITORY, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for index in range(processes)
    ]  # fmt: skip


def finish(workdir: Path, machines: Machines) -> dict[int, dict[str, float]]:
    """Runs until the end; what was learnt."""
    for status, text in end(start(workdir, machines), LONGEST):
        if status:
            raise RuntimeError(f"status {status}: {text}")
    return learnt(workdir)


def end(running: Sequence[subprocess.Popen], seconds: float) -> list[tuple[int, str]]:
    """Status and output of each process, none of which lives for as many `seconds` more."""
    try:
        texts = [process.communicate(timeout=seconds)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, text) for process, text in zip(running, texts, strict=True)]


def learnt(workdir: Path) -> dict[int, dict[str, float]]:
    """What depends on nothing but the examples and the weights, of every step."""
    path = workdir / "metrics/two_stage/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    rows = (json.loads(line) for line in lines if line.endswith("\n"))
    names = "loss", "gradient_norm", "tokens"
    return {row["step"]: {name: row[name] for name in names} for row in rows if "loss" in row}


def forget(workdir: Path) -> None:
    """Removes what training has left."""
    for name in ("checkpoints", "metrics", "decoder"):
        shutil.rmtree(workdir / name)


def interrupt(workdir: Path, machines: Machines, kind: str, seconds: float) -> Interruption:
    """Starts the run, lets it take a step unless it is too early for that, and ends it."""
    path, saves = workdir / "metrics/two_stage/metrics.jsonl", workdir / "checkpoints/two_stage"
    saved = max(finished(saves), default=0)
    before = path.stat().st_mtime_ns if path.exists() else 0
    running = start(workdir, machines)
    # What is behind the checkpoint is cut off from the metrics before the first step is compiled.
    wait_until(lambda: path.exists() and path.stat().st_mtime_ns != before, running)
    if kind != "SIGTERM at the start":
        wait_until(lambda: max(learnt(workdir), default=0) > saved, running)
    time.sleep(seconds)
    if kind == "SIGKILL in a save":
        wait_until(lambda: finished(saves) and unfinished(saves), running)
    number = getattr(signal, kind.split()[0])
    # A machine that fails takes one process; the notice of preemption reaches all.
    victims = running[-1:] if number == signal.SIGKILL else running
    for process in victims:
        process.send_signal(number)
    end(running, LONGEST)
    saved = max(finished(saves), default=0)
    return Interruption(kind, seconds, victims[0].returncode, saved, unfinished(saves))


def finished(saves: Path) -> list[int]:
    """The checkpoints that are whole."""
    return [int(step.name) for step in saves.glob("*") if step.name.isdigit()]


def unfinished(saves: Path) -> bool:
    """Whether a checkpoint is half-written."""
    return saves.exists() and any(not path.name.isdigit() for path in saves.iterdir())


def wait_until(met: Callable[[], bool], running: list[subprocess.Popen]) -> None:
    """Until then, or until a process has ended, or should have."""
    latest = time.monotonic() + LONGEST
    while all(process.poll() is None for process in running) and not met():
        if time.monotonic() > latest:
            break
        time.sleep(0.001)


def compare(
    workdir: Path, machines: Machines, kinds: Sequence[str], seed: int
) -> tuple[list[Interruption], bool]:
    """A run left alone, and one interrupted once for each of `kinds`: whether they learn the same.

    `workdir` has been prepared; the run left alone is there afterwards.
    """
    expected = finish(workdir, machines)
    forget(workdir)
    draw = random.Random(seed)
    events = [interrupt(workdir, machines, kind, draw.uniform(0, 1.0)) for kind in kinds]
    return events, finish(workdir, machines) == expected


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    # The notice of preemption takes a second, in which a process takes some hundred steps.
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    machines = Machines(given.processes, 2 // given.processes, (1, 2, 1))
    prepare(given.workdir, given.steps)
    kinds = [KINDS[i % len(KINDS)] for i in range(2 * given.kills)]
    events, same = compare(given.workdir, machines, kinds, seed=0)
    print("| kill | after (s) | status | newest checkpoint | save under way |")
    print("|---|---|---|---|---|")
    for event in events:
        under_way = "yes" if event.unfinished else "no"
        missed = "" if event.met(given.steps) else " MISSED"
        print(
            f"| {event.kind} | {event.seconds:.2f} | {event.status} | {event.saved} | "
            f"{under_way}{missed} |"
        )
    print("losses of all steps are " + ("bit-equal" if same else "NOT EQUAL"))
    sys.exit(not (same and all(event.met(given.steps) for event in events)))


if __name__ == "__main__":
    main()
