"""An open question of the paper: each stage in a precision of its own."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="precision",
        title="Precision by stage",
        stages=(
            "prune",
            "train",
            "benchmark benchmark.subject=precision",
        ),
        measures=("precision",),
    )
