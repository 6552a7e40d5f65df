"""How well a model predicts the calibration text: the price of a cut before any training."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from overfill_jax.model.transformer import Model, hidden_states, unembed
from overfill_jax.pruning.importance import CalibrationBatch


def text_loss(model: Model, batches: Iterable[CalibrationBatch]) -> float:
    """Cross-entropy in nats per counted token, the first token of a sample left out."""
    total = count = 0.0
    for batch in batches:
        loss, tokens = _loss_sum(model, batch.tokens, batch.valid, batch.counted)
        total, count = total + float(loss), count + float(tokens)
    return total / max(count, 1.0)


@jax.jit
def _loss_sum(
    model: Model, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"], counted: Bool[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _, _ = hidden_states(model, tokens, positions, valid.astype(jnp.int32))

    def row_loss(row):
        # Row by row: logits of a whole batch over a large vocabulary would fill the memory.
        states, targets, counts = row
        logits = unembed(model, states[:-1])
        chosen = jnp.take_along_axis(logits, targets[1:, None], axis=1)[:, 0]
        losses = jax.nn.logsumexp(logits, axis=1) - chosen
        return jnp.sum(jnp.where(counts[1:], losses, 0.0))

    losses = jax.lax.map(row_loss, (hidden, tokens, counted))
    return jnp.sum(losses), jnp.sum(counted[:, 1:]).astype(jnp.float32)
