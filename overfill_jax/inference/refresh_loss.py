"""How likely reference answers are under a refresh policy: teacher forcing, block by block."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from overfill_jax.errors import InputError
from overfill_jax.inference.acceptance import unsure
from overfill_jax.inference.compiled import Pairing
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.serving_model import ServingModel, extend, logits_of, prefill
from overfill_jax.two_stage import crossing


def judged_as(refresh: Refresh) -> Refresh:
    """The policy that gives answers the same probabilities, and lets every draft stand.

    Raises:
      InputError: drafts stand in part: the blocks then depend on more than the answer's tokens.
    """
    if not refresh.verifies:
        return refresh
    if refresh.strictness < 1:
        raise InputError(
            f"generate.refresh_strictness: found {refresh.strictness}, expected 0 or 1 where "
            "likelihoods are asked for (loglikelihood, loglikelihood_rolling)"
        )
    return Refresh(interval=1)  # the full model's own answers, however they are drafted


def judge_refreshed(
    reader: ServingModel,
    writer: ServingModel,
    prompts: Int[np.ndarray, "B P"],
    lengths: Int[np.ndarray, "B"],
    continuations: Int[np.ndarray, "B R"],
    how: Pairing,
    refresh: Refresh,
) -> tuple[Float[Array, "B R"], Bool[Array, "B R"]]:
    """As `continuations.judge`, of answers that the reader refreshes as `judged_as` says."""
    slots = continuations.shape[1]
    tokens = np.pad(prompts, ((0, 0), (0, slots)))
    for row, (length, continuation) in enumerate(zip(lengths, continuations, strict=True)):
        tokens[row, length : length + slots] = continuation
    return refreshed_log_likelihoods(
        reader,
        writer,
        tokens,
        np.maximum(lengths, 1),  # rows that only fill the batch have no prompt
        np.int32(refresh.interval),
        refresh.arguments()["entropy"],
        slots=slots,
        first_token=how.first_token,
        dtype=how.dtype,
    )


@functools.partial(jax.jit, static_argnames=("slots", "first_token", "dtype"))
def refreshed_log_likelihoods(
    reader: ServingModel,
    writer: ServingModel,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    interval: Int[Array, ""],
    entropy: Float[Array, ""],
    slots: int,
    first_token: str,
    dtype: str,
) -> tuple[Float[Array, "B slots"], Bool[Array, "B slots"]]:
    """Log-probability of every answer token, by whichever model would have given it, and whether it
    is the likeliest one.

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
      dtype: of the decoder's cache, as `Pairing.dtype`.
    """
    valid = jnp.full_like(lengths, tokens.shape[1])  # padding lies behind all that counts
    hidden, refreshed = prefill(reader, tokens, valid, tokens.shape[1])
    kept = crossing(reader.config, writer.config)
    refreshed = refreshed.crossing(kept).astype(dtype)

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
        logits = jnp.where(full_turn[:, None], logits_of(reader, known), logits)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), target, axis=1)[:, 0]
        likeliest = target[:, 0] == jnp.argmax(logits, axis=-1)
        key, value = jax.tree.map(
            lambda new, old: jnp.where(jnp.expand_dims(full_turn, range(1, old.ndim)), new, old),
            (refreshed.key, refreshed.value),
            (cache.key, cache.value),
        )
        cache = dataclasses.replace(cache, key=key, value=value)
        return (cache, jnp.where(full_turn, 0, drafted + 1)), (log_p, likeliest)

    _, found = jax.lax.scan(step, (refreshed, jnp.zeros_like(lengths)), jnp.arange(slots))
    return jax.tree.map(jnp.transpose, found)
