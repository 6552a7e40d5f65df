"""Ours: by what channels are chosen: four statistics of importance, at random, the first."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="statistic",
        title="Choice of channels",
        x="what chooses the channels",
        rows=(
            "signed_mean: calibrate.statistic=signed_mean",
            "abs_mean: calibrate.statistic=abs_mean",
            "rms: calibrate.statistic=rms",
            "weighted: calibrate.statistic=weighted",
            "random: prune.selection=random",
            "first: prune.selection=first",
        ),
        seeds=(0, 1, 2),
        stages=(
            "calibrate",
            "prune",
            "train",
            "evaluate",
        ),
        systems=("two_stage",),
        measures=(
            "accuracy",
            "loss",
            "overlap",
        ),
    )
