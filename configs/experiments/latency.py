"""The paper: where the time of an answer goes, prefill against decode, by its length.

Random weights of the true shape in `plan.model`; no model or data is needed. Without another config
it is a shape that a CPU can be asked for, pruned to half its widths.
"""

from configs.experiments._base import experiment

SHAPE = "configs/shapes/llama_88m.json"


def get_config(base: str = "default"):
    config = experiment(
        base,
        name="latency",
        title="Latency by answer length",
        shared=(),
        stages=("benchmark benchmark.subject=inference",),
        measures=(
            "latency",
            "prefill_share",
        ),
    )
    if not config.plan.model:
        config.plan.model = SHAPE
        config.prune.hidden = config.prune.intermediate = 0.5
        config.generate.dtype = "float32"
    config.benchmark.batches = (1,)
    config.benchmark.prompts = (512,)
    return config
