"""Floating-point operations of a train step, by formula: what MFU is reckoned from.

A reader reads the P prompt slots of every row once, forward; a writer reads the R answer slots
behind them, and gives logits. What is trained goes backward as well, at twice the cost of forward.
With a KL divergence the full model answers, too, for its logits. Slots count whether they are
filled or not. The pairs of query and key are those of one example a row, for the attention kernels
leave out what lies above the diagonal but not what belongs to other examples of the row. The
optimiser is not counted. (XLA finds a little to leave out: the last layer's output of a full model
that only fills the cache, and gradients towards that cache.)
"""

import dataclasses
from collections.abc import Mapping, Set

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.flops import attention, logits, products


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """FLOPs of all chips together in one step.

    Attributes:
      frozen: forward, of what is not trained.
      forward, backward: of what is trained.
      recomputed: forward again, in the backward pass; no part of the model's FLOPs.
    """

    frozen: float
    forward: float
    backward: float
    recomputed: float

    @property
    def model(self) -> float:
        """What the mathematics takes, from which MFU is reckoned."""
        return self.frozen + self.forward + self.backward

    @property
    def hardware(self) -> float:
        """What the chips do."""
        return self.model + self.recomputed


def step_flops(
    configs: Mapping[str, ModelConfig],
    roles: tuple[str, str],
    trained: Set[str],
    divergence: bool,
    remat: str,
    rows: int,
    slots: tuple[int, int],
) -> StepFlops:
    """FLOPs of one step.

    Args:
      configs: shapes by name, with `full` where there is a divergence.
      roles: names of reader and writer; the writer is trained.
      trained: names of the models that the step changes.
      divergence: the full model gives logits for the answers.
      remat: what the backward pass recomputes of trained models.
      rows: of the global batch.
      slots: of every row, for prompts and for answers.
    """
    (reader, writer), (prompt, answer) = (configs[name] for name in roles), slots
    prompt_pairs = prompt * (prompt + 1) // 2
    answer_pairs = answer * prompt + answer * (answer + 1) // 2
    frozen, trainees = 0.0, [(writer, answer, answer_pairs)]
    if roles[0] in trained:
        trainees.append((reader, prompt, prompt_pairs))
    else:
        frozen += products(reader, prompt) + attention(reader, prompt_pairs)
    forward, recomputed = logits(writer, answer), 0.0
    if divergence:
        full = configs["full"]
        frozen += products(full, answer) + attention(full, answer_pairs) + logits(full, answer)
        if roles[0] != "full":
            frozen += products(full, prompt) + attention(full, prompt_pairs)
    for config, tokens, pairs in trainees:
        multiplied, mixed = products(config, tokens), attention(config, pairs)
        forward += multiplied + mixed
        # A layer's last product is never computed again: no gradient depends on its outcome.
        last = 2.0 * config.num_layers * tokens * config.intermediate_size * config.hidden_size
        recomputed += {"none": 0, "dots": mixed, "full": multiplied - last + mixed}[remat]
    return StepFlops(rows * frozen, rows * forward, 2 * rows * forward, rows * recomputed)
