"""The paper's next check: what the calibration text is of, each time as many samples.

The overlap is that of the kept channels with those of the first row. Text of another kind is one
more row, `--config.experiment.rows` with "NAME: calibrate.source=FILE.txt".
"""

from configs.experiments._base import experiment
from overfill_jax.data.procedural import FAMILIES


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="calibration_text",
        title="Calibration text",
        x="calibrated on",
        rows=(
            "all tasks: calibrate.families=()",
            *(f"{name}: calibrate.families=('{name}',)" for name in FAMILIES),
        ),
        stages=(
            "calibrate",
            "prune",
            "train",
            "evaluate",
        ),
        systems=("two_stage",),
        measures=(
            "overlap",
            "accuracy",
            "families",
            "loss",
        ),
    )
