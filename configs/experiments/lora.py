"""Ours, the reviewers' question: a decoder of which only adapters are trained, by their rank.

On the quickstart rank 28 trains as many parameters as there are weights.
"""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="lora",
        title="Adapters in place of all weights",
        x="what is trained",
        rows=(
            "rank 4: train.lora_rank=4",
            "rank 16: train.lora_rank=16",
            "rank 28: train.lora_rank=28",
            "rank 64: train.lora_rank=64",
            "all weights: train.lora_rank=0",
        ),
        seeds=(0, 1, 2),
        stages=("prune", "train", "evaluate"),
        systems=("two_stage",),
        measures=("accuracy", "loss"),
    )
