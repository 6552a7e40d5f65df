"""An open question of the paper: how often the full model must read along."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="refresh",
        title="Refresh interval",
        series=(
            "one handoff: train.handoffs=False",
            "many handoffs: train.handoffs=True",
        ),
        stages=(
            "prune",
            "train",
            "benchmark benchmark.subject=refresh",
        ),
        measures=(
            "refreshed_loss",
            "refreshed_positions",
            "refreshed_accuracy",
            "refreshed_by_length",
        ),
    )
