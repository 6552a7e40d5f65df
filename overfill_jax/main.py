"""The command line: `python -m overfill_jax.main STAGE --config=configs/NAME.py --workdir=DIR`.

Settings are overridden by key: `--config.train.steps=200`. `plan` takes its most usual ones as
`--chip=v5e --topology=4x4 --compile`, too, and `--batch=1 --prompt=512 --answer=1024`. Bad input
ends with one line and exit status 2; `--traceback` shows where it was found. Every process of a job
on several hosts is given the same command; what one process fails with, all of them end with.
"""

import contextlib
import logging as standard_logging
import re
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.stages import PREEMPTIBLE, STAGES, run_stage

# `ru_maxrss` counts bytes on macOS and KiB elsewhere.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# Keys of `plan` that are flags, too.
PLAN_FLAGS = (
    "chip",
    "topology",
    "compile",
    "chips",
    "batch",
    "prompt",
    "answer",
    "weights",
    "cache",
    "refresh",
)


def main(argv: Sequence[str]) -> None:
    """Runs one stage; ends with 0, 2 for bad input, 1 for any other error."""
    given = flags.FLAGS
    _log_plainly(given.traceback)
    try:
        if len(argv) != 2:
            raise InputError(f"found {argv[1:]}, expected one stage of {', '.join(STAGES)}")
        index, preemptible = given.process_index, argv[1] in PREEMPTIBLE
        distributed.start(given.coordinator, given.processes, index, preemptible)
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
            with contextlib.suppress(OSError):  # nobody may be reading any more
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


def _log_plainly(everything: bool) -> None:
    """Time and message of our own lines; of libraries, and of other processes, only warnings.

    Of several reads or writes under way that fail, one is raised and told by us. What asyncio,
    Orbax and the interpreter have to say of them, dozens of lines, comes only with `everything`.
    """
    logging.set_verbosity(logging.INFO)
    if not everything:
        sys.unraisablehook = lambda _: None
        sys.excepthook = _interrupted
    handler = logging.get_absl_handler()
    handler.setFormatter(standard_logging.Formatter("%(asctime)s %(where)s%(message)s", "%H:%M:%S"))
    ours = str(Path(__file__).parent)

    def told(record: standard_logging.LogRecord) -> bool:
        # Asked for every line, for which process this is comes out only after the first few.
        main = distributed.is_main()
        record.where = "" if main else f"process {distributed.process_index()}: "
        retold = record.name == "asyncio" or (record.exc_info and "/orbax/" in record.pathname)
        if retold and not everything:
            return False
        warns = record.levelno >= logging.converter.STANDARD_WARNING
        return warns or (main and record.pathname.startswith(ours))

    handler.addFilter(told)


def _interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None):
    """Ctrl-C needs no traceback; the process still ends as one that SIGINT ended."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _parse(argv: Sequence[str]) -> list[str]:
    # There ml_collections looks for its overrides, as soon as the config is defined.
    sys.argv = _spelled_out(argv)
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
        return flags.FLAGS(sys.argv)
    except flags.Error as error:
        _refuse(_without_traceback(str(error)))
    except (AttributeError, KeyError) as error:
        _refuse(f"config: unknown key {_key_and_nearest(error)}")
    except (TypeError, ValueError, OSError) as error:
        _refuse(f"config: {error}")


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """The flags of `plan` by their whole names."""
    if "plan" not in argv:
        return list(argv)
    short = re.compile(rf"--({'|'.join(PLAN_FLAGS)})(?==|$)")
    return [short.sub(r"--config.plan.\1", word, count=1) for word in argv]


def _key_and_nearest(error: Exception) -> str:
    """What ml_collections says of a key, on one line; of a leaf it is an error within an error."""
    said: object = error
    while isinstance(said, Exception):
        said = said.args[0] if said.args else ""
    return "; ".join(str(said).splitlines())


def _without_traceback(said: str) -> str:
    """Of a config that raised: what, and where; ml_collections has the whole traceback there."""
    head, raised, trace = said.partition("Error whilst parsing config file:")
    if not raised:
        return said
    file, line = re.findall(r'File "([^"]+)", line (\d+)', trace)[-1]
    return f"{head}{trace.strip().splitlines()[-1]} ({file}, line {line})"


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
