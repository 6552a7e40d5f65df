"""Ours: who gives the first token of an answer, the full model or the decoder."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="first_token",
        title="First token",
        x="first token by",
        rows=(
            "full: train.first_token=full evaluate.first_token=full",
            "decoder: train.first_token=decoder evaluate.first_token=decoder",
        ),
        seeds=(0, 1, 2),
        stages=(
            "prune",
            "train",
            "evaluate",
        ),
        systems=("two_stage",),
        measures=(
            "accuracy",
            "loss",
            "positions",
        ),
    )
