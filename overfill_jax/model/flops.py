"""Floating-point operations of one model, forward, by formula.

A product of [T, A] and [A, B] is 2 T A B. A token costs 2 for every weight of the projections and
of the MLP, and 2 D V where its logits count. A pair of query and key that see each other costs
4 N H in a layer: score and mixture. Norms, rotary embedding and softmax are not counted.
"""

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.size import parameters_by_part


def products(config: ModelConfig, tokens: int) -> float:
    """Of the layers' matrices."""
    parts = parameters_by_part(config)
    biases = config.num_layers * config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    weights = parts["attention"] + parts["mlp"] - biases * config.qkv_bias
    return 2.0 * tokens * weights


def attention(config: ModelConfig, pairs: int) -> float:
    """Of so many pairs of query and key in every layer."""
    return 4.0 * config.num_layers * config.num_heads * config.head_dim * pairs


def logits(config: ModelConfig, tokens: int) -> float:
    """Of the unembedding."""
    return 2.0 * tokens * config.hidden_size * config.vocab_size


def reading(config: ModelConfig, rows: int, prompt: int) -> float:
    """Of so many prompts whose last tokens give the first ones of answers.

    The other tokens stop in the last layer at their queries, keys and values, which are one
    product (`inference.serving_model.prefill`).
    """
    layer = products(config, 1) / config.num_layers
    qkv = 2.0 * config.hidden_size * config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    left_out = rows * (prompt - 1) * (layer - qkv)
    seen = attention(config, rows * prompt * (prompt + 1) // 2)
    left_out += attention(config, rows * prompt * (prompt - 1) // 2) / config.num_layers
    return products(config, rows * prompt) + seen + logits(config, rows) - left_out
