"""Floating-point operations of a train step, by formula: what MFU is reckoned from.

A reader reads the P prompt slots of every row once, forward; a writer reads the R answer slots
behind them, and gives logits. What is trained goes backward as well, at twice the cost of forward.
With a KL divergence the full model answers, too, for its logits; with several handoffs within an
answer the reader reads the answers in any case, and the writer sees one entry of each token before.
Slots count whether they are filled or not. The pairs of query and key are those of one example a
row, for the attention kernels leave out what lies above the diagonal but not what belongs to other
examples of the row. The optimiser is not counted, nor are the products of adapters, of which the
gradients are taken through their kernels'. (XLA finds a little to leave out: the last layer's
output of a full model that only fills the cache, and gradients towards that cache.)
"""

import dataclasses

from overfill_jax.model.flops import attention, logits, products
from overfill_jax.training.step import Setup


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


def step_flops(setup: Setup, rows: int, slots: tuple[int, int]) -> StepFlops:
    """FLOPs of one step.

    Args:
      setup: of the run.
      rows: of the global batch.
      slots: of every row, for prompts and for answers.
    """
    configs, (prompt, answer) = dict(setup.configs), slots
    reader, writer = (configs[name] for name in setup.roles)
    prompt_pairs = prompt * (prompt + 1) // 2
    answer_pairs = answer * prompt + answer * (answer + 1) // 2
    read = [(prompt, prompt_pairs)]
    if setup.objective.handoffs:
        read.append((answer, answer_pairs))
    frozen, trainees = 0.0, [(writer, answer, answer_pairs)]
    for tokens, pairs in read:
        if setup.roles[0] in setup.trained:
            trainees.append((reader, tokens, pairs))
        else:
            frozen += products(reader, tokens) + attention(reader, pairs)
    forward, recomputed = logits(writer, answer), 0.0
    if setup.objective.terms.kl_weight:
        full, wanted = configs["full"], {(prompt, prompt_pairs), (answer, answer_pairs)}
        already = read if setup.roles[0] == "full" else []
        frozen += logits(full, answer) + sum(
            products(full, tokens) + attention(full, pairs)
            for tokens, pairs in wanted.difference(already)
        )
    for config, tokens, pairs in trainees:
        multiplied, mixed = products(config, tokens), attention(config, pairs)
        forward += multiplied + mixed
        # A layer's last product is never computed again: no gradient depends on its outcome.
        last = 2.0 * config.num_layers * tokens * config.intermediate_size * config.hidden_size
        recomputed += {"none": 0, "dots": mixed, "full": multiplied - last + mixed}[setup.remat]
    return StepFlops(rows * frozen, rows * forward, 2 * rows * forward, rows * recomputed)
