"""How likely reference answers are under a refresh policy: teacher forcing, block by block."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from overfill_jax.inference.acceptance import unsure
from overfill_jax.inference.serving_model import ServingModel, extend, logits_of, prefill
from overfill_jax.two_stage import crossing


@functools.partial(jax.jit, static_argnames=("slots", "first_token"))
def refreshed_log_likelihoods(
    reader: ServingModel,
    writer: ServingModel,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    interval: Int[Array, ""],
    entropy: Float[Array, ""],
    slots: int,
    first_token: str,
) -> Float[Array, "B slots"]:
    """Log-probability of every answer token, by whichever model would have given it.

    The full model reads a whole row once; what it leaves is what every refresh would bring.

    Args:
      reader: the full model.
      writer: the decoder.
      tokens: prompt and answer of each row, one behind the other, then padding.
      lengths: of the prompts.
      interval: as `Refresh.interval`.
      entropy: as `Refresh.entropy`.
      slots: of the answers.
      first_token: who gives the first one.
    """
    valid = jnp.full_like(lengths, tokens.shape[1])  # padding lies behind all that counts
    hidden, refreshed = prefill(reader, tokens, valid, tokens.shape[1])
    kept = crossing(reader.config, writer.config)
    refreshed = refreshed.crossing(kept).astype(writer.config.dtype)

    def of_target(logits, target):
        log_p = jax.nn.log_softmax(logits, axis=-1)
        return jnp.take_along_axis(log_p, target[:, None], axis=1)[:, 0]

    def step(carry, index):
        cache, drafted = carry
        at = jnp.minimum(lengths - 1 + index, tokens.shape[1] - 2)[:, None]
        token, target = (jnp.take_along_axis(tokens, at + n, axis=1) for n in (0, 1))
        cache = dataclasses.replace(cache, lengths=at[:, 0])
        written, cache = extend(writer, token, cache)
        logits = logits_of(writer, written[:, 0])
        full_turn = (drafted >= interval - 1) | unsure(logits, entropy)
        full_turn |= (index == 0) & (first_token == "full")
        known = jnp.take_along_axis(hidden, at[..., None], axis=1)[:, 0]
        chosen = jnp.where(
            full_turn,
            of_target(logits_of(reader, known), target[:, 0]),
            of_target(logits, target[:, 0]),
        )
        key, value = jax.tree.map(
            lambda new, old: jnp.where(jnp.expand_dims(full_turn, range(1, old.ndim)), new, old),
            (refreshed.key, refreshed.value),
            (cache.key, cache.value),
        )
        cache = dataclasses.replace(cache, key=key, value=value)
        return (cache, jnp.where(full_turn, 0, drafted + 1)), chosen

    _, chosen = jax.lax.scan(step, (refreshed, jnp.zeros_like(lengths)), jnp.arange(slots))
    return chosen.T
