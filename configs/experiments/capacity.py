"""The paper's next check: how far from the prompt a decoder carries, by ratio and with refresh."""

from configs.experiments._base import RATIOS, experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="capacity",
        title="Capacity by distance from the prompt",
        x="share of hidden and MLP channels removed",
        rows=RATIOS,
        stages=(
            "prune",
            "train train.handoffs=True",
            "evaluate",
            "benchmark benchmark.subject=refresh",
        ),
        systems=(
            "full",
            "two_stage",
        ),
        measures=(
            "positions",
            "accuracy_by_length",
            "refreshed_positions",
            "refreshed_accuracy",
            "refreshed_by_length",
        ),
    )
