"""Ours: the paper's odd widths against aligned ones of about as many parameters.

Another config must name both in its `WIDTHS`, as `llama3_2_3b` does.
"""

import importlib

from configs.experiments._base import experiment
from overfill_jax.errors import InputError

ROWS = {"reference": "paper", "aligned": "aligned"}


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="alignment",
        title="Reference widths against aligned ones",
        x="widths",
        rows=_rows(base.partition(":")[0]),
        seeds=(0, 1, 2),
        stages=("prune", "train", "evaluate"),
        systems=("two_stage",),
        measures=("accuracy", "loss"),
    )


def _rows(name: str) -> tuple[str, ...]:
    module = importlib.import_module(f"configs.{name}")
    if not hasattr(module, "WIDTHS"):
        raise InputError(
            f"configs/{name}.py: found no WIDTHS, expected 'paper' and 'aligned' ones to compare"
        )
    return tuple(
        "{}: prune.hidden={} prune.intermediate={}".format(row, *module.WIDTHS[widths])
        for row, widths in ROWS.items()
    )
