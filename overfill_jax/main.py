"""The command line: `python -m overfill_jax.main STAGE --config=configs/NAME.py --workdir=DIR`.

Settings are overridden by key: `--config.train.steps=200`. Bad input ends with one line and exit
status 2; `--traceback` shows where it was found. Every process of a job on several hosts is given
the same command; what one process fails with, all of them end with.
"""

import contextlib
import logging as standard_logging
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.stages import JOBS, STAGES, run_stage

# `ru_maxrss` counts bytes on macOS and KiB elsewhere.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main(argv: Sequence[str]) -> None:
    """Runs one stage; ends with 0, 2 for bad input, 1 for any other error."""
    given = flags.FLAGS
    _log_plainly()
    try:
        if len(argv) != 2:
            raise InputError(f"found {argv[1:]}, expected one stage of {', '.join(STAGES)}")
        index = given.process_index
        distributed.start(given.coordinator, given.processes, index, preemptible=argv[1] in JOBS)
        began = time.monotonic()
        run_stage(argv[1], given.config, given.workdir)
        gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 2**30
        seconds = time.monotonic() - began
        logging.info("%s: %.1f s, peak memory %.2f GiB", argv[1], seconds, gibibytes)
        distributed.finish()
    except distributed.Preempted as notice:
        if distributed.is_main():
            print(f"preempted: {notice}; the same command goes on from there", flush=True)
        distributed.finish()
        sys.exit(given.preempted_status)
    except Exception as error:
        status, message = _told(error)
        if given.traceback or status == 1:
            traceback.print_exc()
        distributed.fail(status, message)


def _told(error: Exception) -> tuple[int, str]:
    """Exit status and message."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, OSError):
        # Full disks and missing rights: the message names the file.
        return 2, f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return 1, f"{type(error).__name__}: {error}"


def _log_plainly() -> None:
    """Time and message of our own lines; of libraries, and of other processes, only warnings."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(standard_logging.Formatter("%(asctime)s %(where)s%(message)s", "%H:%M:%S"))
    ours = str(Path(__file__).parent)

    def told(record: standard_logging.LogRecord) -> bool:
        # Asked for every line, for which process this is comes out only after the first few.
        main = distributed.is_main()
        record.where = "" if main else f"process {distributed.process_index()}: "
        warns = record.levelno >= logging.converter.STANDARD_WARNING
        return warns or (main and record.pathname.startswith(ours))

    handler.addFilter(told)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        # Defining the config loads its file and applies the overrides, so it can fail, too.
        config_flags.DEFINE_config_file("config", "configs/default.py", "Settings of the run.")
        flags.DEFINE_string("workdir", None, "Folder that the stages meet in.", required=True)
        flags.DEFINE_bool("traceback", False, "Show where bad input was found.")
        flags.DEFINE_integer(
            "preempted_status",
            0,
            "Exit status of a run that saved and ended on SIGTERM; launchers that go on by "
            "themselves tell it from a finished one.",
        )
        _define_job(flags.FLAGS)
        return flags.FLAGS(argv)
    except flags.Error as error:
        _refuse(str(error))
    except AttributeError as error:
        # ml_collections' message names the key and the nearest declared one.
        _refuse(f"config: unknown key {str(error).replace(chr(92) + 'n', ' ')}")
    except (KeyError, TypeError, ValueError, OSError) as error:
        _refuse(f"config: {error}")


def _define_job(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "coordinator",
        "",
        "Of a job of several processes: HOST:PORT that process 0 listens at, or 'auto' where the "
        "cluster tells (TPU pod, GKE, Slurm).",
        flag_values=values,
    )
    flags.DEFINE_integer("processes", 1, "How many the job has.", flag_values=values)
    flags.DEFINE_integer("process_index", 0, "Which this one is, from 0.", flag_values=values)


def _refuse(message: str) -> NoReturn:
    """Ends all processes of the job: this one may be the only one whose arguments are bad."""
    job = flags.FlagValues()
    with contextlib.suppress(flags.Error, InputError):
        _define_job(job)
        job(sys.argv, known_only=True)
        distributed.start(job.coordinator, job.processes, job.process_index, preemptible=False)
    distributed.fail(2, message)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
