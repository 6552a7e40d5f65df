"""Ours: one handoff, the reference's random cutoff, or many in a sequence; under refresh."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="handoffs",
        title="Handoffs in training, under refresh",
        series=(
            "one handoff: train.cutoff=False",
            "random cutoff: train.cutoff=True",
            "many handoffs: train.handoffs=True",
        ),
        stages=(
            "prune",
            "train",
            "benchmark benchmark.subject=refresh",
        ),
        measures=("refreshed_loss",),
    )
