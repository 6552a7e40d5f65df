"""The paper: how much may be pruned, by task."""

from configs.experiments._base import RATIOS, experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="ratio",
        title="Pruning ratio, by task",
        x="share of hidden and MLP channels removed",
        rows=RATIOS,
        stages=(
            "prune",
            "train",
            "train train.method=pruned",
            "evaluate",
        ),
        systems=(
            "full",
            "two_stage",
            "pruned_tuned",
            "pruned_untrained",
        ),
        measures=(
            "accuracy",
            "families",
            "gap",
            "relative_gain",
        ),
    )
