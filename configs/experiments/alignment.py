"""Ours: the paper's odd widths against aligned ones of about as many parameters."""

from configs.experiments._base import experiment

# Of the quickstart's 128 and 320; the decoders read 134 k and 131 k weights a token.
WIDTHS = (
    "reference: prune.hidden=0.74 prune.intermediate=0.81",
    "aligned: prune.hidden=32 prune.intermediate=64",
)


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="alignment",
        title="Reference widths against aligned ones",
        x="widths",
        rows=WIDTHS,
        seeds=(0, 1, 2),
        stages=("prune", "train", "evaluate"),
        systems=("two_stage",),
        measures=("accuracy", "loss"),
    )
