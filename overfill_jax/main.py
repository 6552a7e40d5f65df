"""The command line: `python -m overfill_jax.main STAGE --config=configs/NAME.py --workdir=DIR`.

Settings are overridden by key: `--config.train.steps=200`. Bad input ends with one line and exit
status 2; `--traceback` shows where it was found.
"""

import logging as standard_logging
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from overfill_jax.errors import InputError
from overfill_jax.stages import STAGES, run_stage

# `ru_maxrss` counts bytes on macOS and KiB elsewhere.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main(argv: Sequence[str]) -> None:
    """Runs one stage; bad input becomes one line on stderr and exit status 2."""
    config, traceback = flags.FLAGS.config, flags.FLAGS.traceback
    _log_plainly()
    try:
        if len(argv) != 2:
            raise InputError(f"found {argv[1:]}, expected one stage of {', '.join(STAGES)}")
        began = time.monotonic()
        run_stage(argv[1], config, flags.FLAGS.workdir)
        gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 2**30
        seconds = time.monotonic() - began
        logging.info("%s: %.1f s, peak memory %.2f GiB", argv[1], seconds, gibibytes)
    except InputError as error:
        if traceback:
            raise
        _refuse(str(error))
    except OSError as error:
        # Full disks and missing rights: the message names the file.
        if traceback:
            raise
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _log_plainly() -> None:
    """Time and message of our own lines; of libraries only warnings."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(standard_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours = str(Path(__file__).parent)
    handler.addFilter(
        lambda record: (
            record.levelno >= logging.converter.STANDARD_WARNING or record.pathname.startswith(ours)
        )
    )


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        # Defining the config loads its file and applies the overrides, so it can fail, too.
        config_flags.DEFINE_config_file("config", "configs/default.py", "Settings of the run.")
        flags.DEFINE_string("workdir", None, "Folder that the stages meet in.", required=True)
        flags.DEFINE_bool("traceback", False, "Show where bad input was found.")
        return flags.FLAGS(argv)
    except flags.Error as error:
        _refuse(str(error))
    except AttributeError as error:
        # ml_collections' message names the key and the nearest declared one.
        _refuse(f"config: unknown key {str(error).replace(chr(92) + 'n', ' ')}")
    except (KeyError, TypeError, ValueError, OSError) as error:
        _refuse(f"config: {error}")


def _refuse(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
