"""The paper: the full model frozen against both trained together, by pruning ratio.

Together at a tenth of the rate: at a decoder's own, a full model that is trained already falls
apart (0.28 instead of 0.89 right on the quickstart). A tenth of what the base config
says: to change both, `--config.train.learning_rate` wants `--config.experiment.stages` beside it.
"""

from configs.experiments._base import RATIOS, experiment


def get_config(base: str = "quickstart"):
    config = experiment(
        base,
        name="freeze",
        title="Frozen full model against joint training",
        x="share of hidden and MLP channels removed",
        rows=RATIOS,
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
    rate = config.train.learning_rate / 10
    together = f"train train.freeze=none train.learning_rate={rate}"
    config.experiment.stages = ("prune", "train", together, "evaluate")
    return config
