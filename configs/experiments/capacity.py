"""The paper's next check: how far from the prompt a decoder carries, by ratio and with refresh."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="capacity",
        title="Capacity by distance from the prompt",
        x="share of hidden and MLP channels removed",
        rows=(
            "0.25: prune.hidden=0.25 prune.intermediate=0.25",
            "0.45: prune.hidden=0.45 prune.intermediate=0.45",
            "0.7: prune.hidden=0.7 prune.intermediate=0.7",
        ),
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
        ),
    )
