"""The paper: the full model frozen against both trained together, by pruning ratio."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="freeze",
        title="Frozen full model against joint training",
        x="share of hidden and MLP channels removed",
        rows=(
            "0.25: prune.hidden=0.25 prune.intermediate=0.25",
            "0.45: prune.hidden=0.45 prune.intermediate=0.45",
            "0.7: prune.hidden=0.7 prune.intermediate=0.7",
        ),
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
