"""The paper: where the time of an answer goes, prefill against decode, by its length.

Random weights of the true shape in `plan.model`; no model or data is needed.
"""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
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
