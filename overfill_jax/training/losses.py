"""Losses of tokens over a large vocabulary, a few slots of every row at a time.

At 128k tokens of vocabulary the logits of one batch would take more memory than the model. Here
they exist for `chunk` slots of each row at once, forward and backward: the backward pass computes
them again from the hidden states.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from overfill_jax.model.transformer import Model, unembed


def token_losses(
    model: Model,
    hidden: Float[Array, "B R D"],
    tokens: Int[Array, "B R"],
    chunk: int,
    target: tuple[Model, Float[Array, "B R C"]] | None = None,
    temperature: float = 1.0,
) -> tuple[Float[Array, "B R"], Float[Array, "B R"]]:
    """What every slot's hidden state says about the token that belongs there.

    Args:
      model: that the hidden states are of.
      hidden: last hidden states, slot r of which predicts `tokens[:, r]`.
      tokens: the right ones.
      chunk: most slots of each row whose logits exist at a time; static.
      target: another model with its hidden states, which the divergence is taken from.
      temperature: of both distributions in the divergence.

    Returns:
      The negative log-likelihood of each token in nats; and KL(target || model) at `temperature`
      T, times T**2 so that its gradients keep their size (Hinton et al., arXiv 1503.02531), 0
      without a target.
    """
    slots = tokens.shape[1]
    # Chunks of one size with as little padding as their number allows.
    chunk = math.ceil(slots / math.ceil(slots / chunk))
    arrays = hidden, tokens, None if target is None else target[1]
    chunks = jax.tree.map(functools.partial(_cut, chunk=chunk), arrays)

    # Inside a scan XLA cannot undo the recomputation, so nothing has to prevent it.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(_, part):
        hidden, tokens, target_hidden = part
        logits = unembed(model, hidden)
        kl = jnp.zeros(tokens.shape)
        if target is not None:
            aim = jax.lax.stop_gradient(unembed(target[0], target_hidden))
            kl = divergence(aim, logits, temperature)
        return None, (-log_likelihood(logits, tokens), kl)

    _, losses = jax.lax.scan(one, None, chunks)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(len(tokens), -1)[:, :slots], losses)


def log_likelihood(logits: Float[Array, "*N V"], tokens: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Log-probability of each token."""
    # A sum over a mask, for a gather would bring a vocabulary that is split together again.
    chosen = jnp.arange(logits.shape[-1]) == tokens[..., None]
    picked = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    return picked - jax.nn.logsumexp(logits, axis=-1)


def divergence(
    target: Float[Array, "*N V"], logits: Float[Array, "*N V"], temperature: float
) -> Float[Array, "*N"]:
    """KL(target || logits) at a temperature, times its square."""
    target = jax.nn.log_softmax(target / temperature)
    logits = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - logits), axis=-1)


def _cut(array: Array, chunk: int) -> Array:
    """[B, R, ...] as [R / chunk, B, chunk, ...], the last chunk filled up with 0."""
    batch, slots, *rest = array.shape
    room = -slots % chunk
    array = jnp.pad(array, ((0, 0), (0, room), *((0, 0) for _ in rest)))
    return jnp.moveaxis(array.reshape(batch, -1, chunk, *rest), 1, 0)
