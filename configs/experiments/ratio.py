"""The paper: how much may be pruned, by task."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="ratio",
        title="Pruning ratio, by task",
        x="share of hidden and MLP channels removed",
        rows=(
            "0.25: prune.hidden=0.25 prune.intermediate=0.25",
            "0.45: prune.hidden=0.45 prune.intermediate=0.45",
            "0.7: prune.hidden=0.7 prune.intermediate=0.7",
        ),
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
