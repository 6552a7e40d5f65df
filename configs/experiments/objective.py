"""Ours: the answer's tokens as target, the full model's distribution, or both."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="objective",
        title="Training objective",
        x="objective",
        rows=(
            "cross-entropy: train.cross_entropy_weight=1.0 train.kl_weight=0.0",
            "KL: train.cross_entropy_weight=0.0 train.kl_weight=1.0",
            "both: train.cross_entropy_weight=1.0 train.kl_weight=1.0",
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
        ),
    )
