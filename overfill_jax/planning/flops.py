"""Floating-point operations of a train step, by formula.

A product of [T, A] and [A, B] is 2 T A B. A token costs 2 for every weight of the projections and
of the MLP, and 2 D V where its logits count. A pair of query and key that see each other costs
4 N H in a layer: score and mixture. The pairs are those of one example a row, for the attention
kernels leave out what lies above the diagonal but not what belongs to other examples of the row.
Norms, rotary embedding, softmax and optimiser are not counted.

The full model reads P slots of every row once, forward. The decoder reads R slots forward and
backward, which costs twice as much again. With a KL divergence the full model reads the R slots
as well, for its logits. (XLA finds a little to leave out: the last layer's output of a full model
that only fills the cache, and gradients towards that cache.)
"""

import dataclasses

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.size import parameters_by_part


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """FLOPs of all chips together in one step.

    Attributes:
      full: forward.
      decoder_forward, decoder_backward: of the trained model.
      recomputed: forward again, in the backward pass; no part of the model's FLOPs.
    """

    full: float
    decoder_forward: float
    decoder_backward: float
    recomputed: float

    @property
    def model(self) -> float:
        """What the mathematics takes, from which MFU is reckoned."""
        return self.full + self.decoder_forward + self.decoder_backward

    @property
    def hardware(self) -> float:
        """What the chips do."""
        return self.model + self.recomputed


def step_flops(
    full: ModelConfig,
    decoder: ModelConfig,
    rows: int,
    slots: tuple[int, int],
    remat: str,
    divergence: bool,
) -> StepFlops:
    """FLOPs of one step.

    Args:
      full, decoder: the two shapes; the decoder alone is trained.
      rows: of the global batch.
      slots: of every row, for prompts and for answers.
      remat: what the decoder's backward pass recomputes.
      divergence: the full model gives logits for the answers, too.
    """
    prompt, answer = slots
    prompt_pairs = prompt * (prompt + 1) // 2
    answer_pairs = answer * prompt + answer * (answer + 1) // 2
    reading = products(full, prompt) + attention(full, prompt_pairs)
    # The losses' backward pass computes the logits again, whatever `remat` says.
    recomputed = logits(decoder, answer)
    if divergence:
        target = logits(full, answer)
        recomputed += target
        reading += products(full, answer) + attention(full, answer_pairs) + target
    mixing = attention(decoder, answer_pairs)
    layers = products(decoder, answer)
    forward = layers + mixing + logits(decoder, answer)
    recomputed += {"none": 0, "dots": mixing, "full": layers + mixing}[remat]
    return StepFlops(rows * reading, rows * forward, 2 * rows * forward, rows * recomputed)


def products(config: ModelConfig, tokens: int) -> float:
    """Of the layers' matrices, forward."""
    parts = parameters_by_part(config)
    biases = config.num_layers * config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    weights = parts["attention"] + parts["mlp"] - biases * config.qkv_bias
    return 2.0 * tokens * weights


def attention(config: ModelConfig, pairs: int) -> float:
    """Of so many pairs of query and key in every layer, forward."""
    return 4.0 * config.num_layers * config.num_heads * config.head_dim * pairs


def logits(config: ModelConfig, tokens: int) -> float:
    """Of the unembedding, forward."""
    return 2.0 * tokens * config.hidden_size * config.vocab_size
