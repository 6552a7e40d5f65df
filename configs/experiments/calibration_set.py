"""The paper's next check: what the calibration text decides, by its size and composition.

The overlap is that of the kept channels with those of the first row and series.
"""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="calibration_set",
        title="Calibration set",
        x="calibration samples",
        rows=(
            "2048: calibrate.samples=2048",
            "512: calibrate.samples=512",
            "128: calibrate.samples=128",
            "32: calibrate.samples=32",
            "8: calibrate.samples=8",
            "2: calibrate.samples=2",
        ),
        series=(
            "prompts and answers: calibrate.positions=all",
            "answers: calibrate.positions=answer",
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
            "loss",
        ),
    )
