"""An open question of the paper: attention pruned, too, alone and with the widths."""

from configs.experiments._base import experiment

NO_WIDTHS = "prune.hidden=0.0 prune.intermediate=0.0"
WIDTHS = "prune.hidden=0.45 prune.intermediate=0.45"


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="attention",
        title="Attention pruning",
        x="what is removed",
        rows=(
            f"widths: {WIDTHS}",
            f"half the query heads: {NO_WIDTHS} prune.heads=0.5",
            f"widths and query heads: {WIDTHS} prune.heads=0.5",
            f"half the kv heads: {NO_WIDTHS} prune.kv_heads=0.5",
            f"widths and kv heads: {WIDTHS} prune.kv_heads=0.5",
            f"a quarter of the layers: {NO_WIDTHS} prune.depth=0.25",
            f"widths and layers: {WIDTHS} prune.depth=0.25",
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
