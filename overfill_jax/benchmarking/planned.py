"""What the planner says of the answers that are measured, so that each run puts it to the test."""

import ml_collections

from overfill_jax.benchmarking.systems import DECODER, FULL, TWO_STAGE
from overfill_jax.chips import Chip
from overfill_jax.model.config import ModelConfig
from overfill_jax.planning import inference

NAMES = {FULL: inference.FULL, TWO_STAGE: inference.TWO_STAGE, DECODER: inference.ALONE}
Size = tuple[int, int, int]


def planned(
    config: ml_collections.ConfigDict,
    full: ModelConfig,
    decoder: ModelConfig,
    chip: Chip | None,
    sizes: list[Size],
) -> dict[tuple[str, Size], inference.Times]:
    """By system and batch, prompt, answer; nothing where the planner knows no such machine.

    It knows chips by name, and full models in bfloat16; of refresh without verification the time
    of every interval, not of an entropy.
    """
    c = config.generate
    if chip is None or full.dtype != "bfloat16" or c.refresh == "entropy" or c.refresh_strictness:
        return {}
    found = {}
    for size in sizes:
        asked = config.copy_and_resolve_references().plan
        asked.batch, asked.prompt, asked.answer = size
        asked.weights = {0: "bfloat16", 8: "int8", 4: "int4"}[config.benchmark.precision]
        asked.cache = c.cache or "bfloat16"
        asked.refresh = c.refresh_interval if c.refresh == "every" else 0
        asked.chips = 1
        group = config.quantise.group
        times = inference.plan_inference(asked, full, decoder, chip, group).times
        found |= {(name, size): times[of_plan] for name, of_plan in NAMES.items()}
    return found
