"""Runs stages one after another and remembers which are done, so that none is done twice."""

import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax import distributed, files
from overfill_jax.errors import InputError
from overfill_jax.experiments.lock import locked
from overfill_jax.overrides import with_settings
from overfill_jax.record import flat
from overfill_jax.stages import PREEMPTIBLE, run_stage

# Sections and keys that a stage reads beside its own section, `text` and the seed. The mesh only
# where it decides the numbers, those of time and memory.
FURTHER = {
    "benchmark": (
        "attention",
        "evaluate",
        "generate",
        "engine",
        "plan",
        "mesh",
        "prune",
        "quantise",
        "train",
    ),
    "harness": ("generate",),
    "plan": ("attention", "convert", "mesh", "prune", "quantise", "train"),
    "prune": ("calibrate.batch_size", "calibrate.dtype"),
    "train": ("attention",),
}
# What stages before the cells leave for them.
LINKED = ("text", "data", "tokenizer", "full", "importance.npz", "calibration.npz")


def run_stages(
    stages: Sequence[str],
    config: ml_collections.ConfigDict,
    folder: Path,
    record: Path,
    workdir: Path,
) -> None:
    """Runs what `record` does not have yet, in order.

    Args:
      stages: each a stage with settings of its own, such as "train train.method=pruned".
      config: of all of them.
      folder: their workdir.
      record: the JSON file that says what is done, with which settings and in how many seconds.
      workdir: of the whole experiment; the record does not depend on where it lies.

    Raises:
      HeldError: another process is running them.
      InputError: a stage was done with other settings; or what the stage itself refuses.
      Preempted: the machine is about to be taken away.
    """
    check_done(stages, config, record, workdir)
    if all_done(stages, record):
        return
    with locked(record.with_suffix(".lock")):
        done = _done(record)
        for text, changed in _each(stages, config)[len(done) :]:
            seconds = _run_stage(text, changed, folder)
            settings = _settings(text, changed, workdir)
            done = [*done, {"stage": text, "settings": settings, "seconds": seconds}]
            files.write_json(record, {"stages": done})


def _run_stage(text: str, config: ml_collections.ConfigDict, folder: Path) -> float:
    """How many seconds it took."""
    logging.info("%s: %s", folder.name, text)
    began = time.monotonic()
    stage = text.split()[0]
    ended = distributed.ending_at_once(f"ended in {text!r} of {folder.name}")
    with contextlib.nullcontext() if stage in PREEMPTIBLE else ended:
        run_stage(stage, config, folder)
    return time.monotonic() - began


def check_done(
    stages: Sequence[str], config: ml_collections.ConfigDict, record: Path, workdir: Path
) -> None:
    """Refuses a record of other stages, or with other settings.

    Raises:
      InputError: names the record, the stage, and what was found and expected.
    """
    hint = "take another workdir, or move its folder aside"
    for done, (text, changed) in zip(_done(record), _each(stages, config), strict=False):
        if done["stage"] != text:
            raise InputError(f"{record}: found {done['stage']!r} done, expected {text!r}; {hint}")
        for key, value in _settings(text, changed, workdir).items():
            before = done["settings"].get(key, value)
            if before != value:
                raise InputError(
                    f"{record}: {text!r} was done with {key}={before!r}, now it is {value!r}; "
                    f"{hint}"
                )


def all_done(stages: Sequence[str], record: Path) -> bool:
    """Whether no stage is left, by a record that `check_done` has passed."""
    return len(_done(record)) >= len(stages)


def link_inputs(folder: Path, workdir: Path) -> None:
    """Lets a cell's folder see what was made for all of them; what it has of its own stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        place = folder / name
        if (workdir / name).exists() and not os.path.lexists(place):
            place.symlink_to(os.path.relpath(workdir / name, folder))


def seconds_of(record: Path) -> float:
    """What the stages that are done took, all together."""
    return sum((stage["seconds"] for stage in _done(record)), 0.0)


def _done(record: Path) -> list[dict]:
    return files.read_object(record)["stages"] if record.exists() else []


def _each(
    stages: Sequence[str], config: ml_collections.ConfigDict
) -> list[tuple[str, ml_collections.ConfigDict]]:
    """Every stage as it is written, with the config that it sees."""
    return [(text, with_settings(config, text.split()[1:], "experiment.stages")) for text in stages]


def _settings(text: str, config: ml_collections.ConfigDict, workdir: Path) -> dict[str, object]:
    stage = text.split()[0]
    read = {stage, "text", "seed", *FURTHER.get(stage, ())}
    # As a path begins: the workdir may be called "." or "a".
    place = re.compile(rf"(?<![\w./-]){re.escape(str(workdir))}(?=/)")

    def plain(value: object) -> object:
        if isinstance(value, tuple):
            return list(value)
        return place.sub("{workdir}", value) if isinstance(value, str) else value

    return {
        key: plain(value)
        for key, value in flat(config).items()
        if key in read or key.partition(".")[0] in read
    }
