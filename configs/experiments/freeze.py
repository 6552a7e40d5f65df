"""The paper: the full model frozen against both trained together, by pruning ratio."""

from configs.experiments._base import RATIOS, experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="freeze",
        title="Frozen full model against joint training",
        x="share of hidden and MLP channels removed",
        rows=RATIOS,
        stages=(
            "prune",
            "train",
            "train train.freeze=none",
            "evaluate",
        ),
        systems=(
            "full",
            "two_stage",
            "joint",
        ),
        measures=(
            "accuracy",
            "loss",
        ),
    )
