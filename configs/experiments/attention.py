"""An open question of the paper: attention pruned, too, alone and with the widths."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="attention",
        title="Attention pruning",
        x="what goes beside the widths",
        rows=(
            "nothing: prune.depth=0.0",
            "half the query heads: prune.heads=0.5",
            "half the kv heads: prune.kv_heads=0.5",
            "a quarter of the layers: prune.depth=0.25",
        ),
        series=(
            "full widths: prune.hidden=0.0 prune.intermediate=0.0",
            "pruned widths: prune.hidden=0.45 prune.intermediate=0.45",
        ),
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
