"""A stage that stands in for training in the tests of jobs: what it does is the config's seed.

Run like the command line itself: `python -m tests.job train --config=... --workdir=...`.
"""

import time
from pathlib import Path

import jax
import ml_collections
import numpy as np
from absl import app
from jax.experimental import multihost_utils

from overfill_jax import distributed, main, stages
from overfill_jax.errors import InputError

HEARTBEAT_TIMEOUT = 8  # seconds, for tests wait for it

MEET, INPUT_ERROR, EXCEPTION, TRAIN, WORK = range(5)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """As the seed says; process 1 is the one that fails, process 0 then waits for it."""
    index = distributed.process_index()
    print(f"process {index} runs", flush=True)
    if config.seed == MEET:
        everyone = multihost_utils.process_allgather(np.array([index]))
        print(f"met {everyone.tolist()} of {jax.device_count()} devices", flush=True)
    elif config.seed == TRAIN:
        for step in range(1, 600):
            # A step takes its time, and one process is late.
            time.sleep(0.05 + 0.03 * index)
            if distributed.preempted():
                (workdir / f"stopped-{index}").write_text(str(step))
                raise distributed.Preempted(f"saved after step {step} of 600")
    elif config.seed == WORK:
        time.sleep(600)
    elif index == 1:
        raise InputError("row 3: found nothing") if config.seed == INPUT_ERROR else KeyError("lost")
    else:
        multihost_utils.sync_global_devices("never reached by process 1")


if __name__ == "__main__":
    stages.STAGES["train"] = stages.STAGES["evaluate"] = "tests.job"
    distributed.HEARTBEAT_TIMEOUT = HEARTBEAT_TIMEOUT
    app.run(main.main, flags_parser=main._parse)
