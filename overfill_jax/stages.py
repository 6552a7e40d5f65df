"""The stages by name, and what is common to running any of them."""

import difflib
import importlib
import os
from pathlib import Path

import ml_collections

from overfill_jax import compilation, distributed, files, record
from overfill_jax.errors import InputError

# In the order of the data, each the module that owns its `run(config, workdir)`. They are
# imported when called, so that no stage pays for another's libraries.
STAGES = {
    "plan": "overfill_jax.planning.plan",
    "benchmark": "overfill_jax.benchmarking.benchmark",
    "data": "overfill_jax.data.make",
    "init": "overfill_jax.data.init",
    "convert": "overfill_jax.data.convert",
    "calibrate": "overfill_jax.pruning.calibrate",
    "prune": "overfill_jax.pruning.prune",
    "train": "overfill_jax.training.train",
    "quantise": "overfill_jax.inference.quantise",
    "generate": "overfill_jax.inference.generate",
    "chat": "overfill_jax.inference.chat",
    "evaluate": "overfill_jax.evaluation.evaluate",
    "score": "overfill_jax.evaluation.score",
    "harness": "overfill_jax.evaluation.harness",
    "export": "overfill_jax.weights.export",
    "experiment": "overfill_jax.experiments.experiment",
    "report": "overfill_jax.reporting.report",
}

# They run in many processes if need be. Of the others, every process would write the same files.
JOBS = frozenset({"train", "harness"})

# On SIGTERM they save and end, for which they look out between two steps.
PREEMPTIBLE = frozenset({"train", "experiment"})

# They record their config themselves, before their work: what they have done stays if they fail.
RECORDING = frozenset({"train", "experiment"})

# Their programs are worth keeping. (A benchmark measures how long they take to compile.)
COMPILING = frozenset({"calibrate", "train", "generate", "chat", "evaluate", "score", "harness"})


def run_stage(stage: str, config: ml_collections.ConfigDict, workdir: str | Path) -> None:
    """Runs one stage and leaves its resolved config in `workdir/configs/`.

    >>> from configs import default
    >>> config = default.get_config()
    >>> config.convert.source = "launch/quickstart_model"
    >>> overfill_jax.run_stage("convert", config, "runs/mine")
    >>> overfill_jax.load("runs/mine/full").config.dtype
    'bfloat16'

    Args:
      stage: a name of `STAGES`.
      config: as `configs/default.py` makes it, with what the run changes; `{workdir}` in a
        setting stands for the workdir.
      workdir: the folder that the stages of a run meet in.

    Raises:
      InputError: unknown stage, unwritable workdir, processes that differ in config or workdir,
        or what the stage itself refuses.
    """
    if stage not in STAGES:
        near = difflib.get_close_matches(stage, STAGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InputError(f"unknown stage {stage!r}{hint} Expected one of {', '.join(STAGES)}")
    if distributed.process_count() > 1 and stage not in JOBS:
        raise InputError(
            f"stage {stage}: found {distributed.process_count()} processes, expected one; only "
            f"{', '.join(sorted(JOBS))} may have many"
        )
    if not str(workdir).strip():
        raise InputError(f"workdir: found {str(workdir)!r}, expected a folder")
    if "://" in str(workdir):
        raise InputError(
            f"{workdir}: found an address, expected a folder, such as a mounted bucket"
        )
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{workdir}: cannot be made a workdir ({error.strerror})") from error
    if not os.access(workdir, os.W_OK):
        raise InputError(f"{workdir}: not writable, expected a workdir")
    if config.seed < 0:
        raise InputError(f"seed: found {config.seed}, expected at least 0")
    if distributed.is_main():
        files.recover(workdir)
    resolved = record.config_path(workdir, stage, config)
    files.check_writable(resolved)
    config = _resolved(config, workdir)
    distributed.check_same({"stage": stage, "workdir": str(workdir), **record.flat(config)})
    distributed.check_shared(workdir)
    folder = config.compilation_cache if stage in COMPILING else ""
    with compilation.kept(folder, workdir):
        importlib.import_module(STAGES[stage]).run(config, workdir)
    if stage not in RECORDING and distributed.is_main():
        record.write_config(resolved, config)


def _resolved(config: ml_collections.ConfigDict, workdir: Path) -> ml_collections.ConfigDict:
    """A copy in which `{workdir}` is replaced in every string."""
    config = config.copy_and_resolve_references()
    for section in (config, *config.values()):
        if isinstance(section, ml_collections.ConfigDict):
            for key, value in section.items():
                if isinstance(value, str):
                    section[key] = value.replace("{workdir}", str(workdir))
    return config
