"""The shape of a model: everything that decides its computation, and nothing else."""

import dataclasses
from typing import Literal

from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff

ATTENTION = ("auto", "xla", "splash", "cudnn")


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base `theta` and how long contexts stretch its wave lengths.

    `linear` divides every frequency by `factor`. `llama3` divides only those whose wave length
    exceeds `original_max_position / low_frequency_factor`, keeps those below
    `original_max_position / high_frequency_factor`, and blends in between. The last four fields
    are 1, 1, 1 and 0 where `kind` does not use them, so that equal ropes compare equal.
    """

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    original_max_position: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer of the Llama family.

    >>> full.config.num_layers, full.config.hidden_size, full.config.group_size
    (4, 128, 2)

    Attributes:
      model_type: the Hugging Face family name: llama, mistral, qwen2 or qwen3.
      vocab_size: V, rows of the embedding.
      hidden_size: D, width of the residual stream.
      intermediate_size: F, width of the MLP.
      num_layers: L.
      num_heads: N, query heads.
      num_kv_heads: K, key and value heads; divides N.
      head_dim: H, width of a head; even. Free of D / N: pruning D leaves it alone.
      rope: rotary position embedding.
      norm_epsilon: added to the mean square inside RMSNorm.
      max_position: longest sequence that the model was made for, in tokens.
      tied_embeddings: the unembedding is the embedding.
      qkv_bias: biases on the query, key and value projections (Qwen2).
      qk_norm: RMSNorm over each query and key head (Qwen3).
      dtype: what activations, cache and products are computed in; parameters keep their own.
      attention: who computes attention, one of `ATTENTION`; "auto" takes the fastest that the
        platform and the shapes allow. No property of the model: it is not stored with it.
      handoff: of a decoder with fewer layers or kv heads than the full model, those that it has.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope
    norm_epsilon: float
    max_position: int
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    dtype: str = "float32"
    attention: str = "auto"
    handoff: Handoff | None = None

    def __post_init__(self):
        if self.attention not in ATTENTION:
            raise InputError(
                f"attention is {self.attention!r}, expected one of {', '.join(ATTENTION)}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embedding pairs channels")
        if self.handoff is not None:
            kept = [len(self.handoff.layers), *map(len, self.handoff.kv_heads)]
            if kept != [self.num_layers] + [self.num_kv_heads] * self.num_layers:
                raise ValueError(
                    f"handoff is of {kept[0]} layers with {kept[1:]} kv heads, expected "
                    f"{self.num_layers} with {self.num_kv_heads} each"
                )

    @property
    def group_size(self) -> int:
        """G: query heads that share one kv head."""
        return self.num_heads // self.num_kv_heads
