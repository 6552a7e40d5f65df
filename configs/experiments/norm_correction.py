"""Ours: the norms corrected at the start for the energy that the cut takes away, or not."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="norm_correction",
        title="Norm correction at initialisation",
        x="norms",
        rows=("as they are: prune.norm_correction=False", "corrected: prune.norm_correction=True"),
        seeds=(0, 1, 2),
        stages=("prune", "train", "evaluate"),
        systems=("two_stage", "pruned_untrained", "pruned_two_stage_untrained"),
        measures=("accuracy", "loss"),
    )
