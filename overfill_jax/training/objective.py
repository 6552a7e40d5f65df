"""What training minimises: the answer's tokens, teacher-forced behind the prompt's cache.

Paper, section 3.2. One path for every method: a *reader* reads the prompt, a *writer* goes on
from its cache. In two-stage training they are the full model and the decoder; a model alone is
both.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from overfill_jax.data.batches import Batch
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model
from overfill_jax.two_stage import extend, handoff, prefill


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights of the two losses, and who gives the first answer token ("full" or "decoder").

    The KL divergence is KL(full || writer) at `kl_temperature` T, times T**2 so that its
    gradients keep their size (Hinton et al., arXiv 1503.02531).
    """

    cross_entropy_weight: float
    kl_weight: float
    kl_temperature: float
    first_token: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt that has been read: logits of its last token [B, V], cache, and who read it."""

    logits: Float[Array, "B V"]
    cache: KVCache
    config: ModelConfig


def read_prompt(reader: Model, batch: Batch, remat: str) -> Prompt:
    """The prompt's last logits and its cache with room for the whole answer."""
    room = batch.answer.shape[1]
    logits, cache = prefill(reader, batch.prompt, batch.prompt_lengths, room, remat)
    return Prompt(logits, cache, reader.config)


def answer_logits(
    prompt: Prompt, writer: Model, batch: Batch, first_token: str, remat: str
) -> Float[Array, "B R V"]:
    """Logits that predict each answer token, token 0 included.

    With `first_token` "full" the reader's logits predict token 0, and the writer reads tokens
    0..R-2 to predict the rest. With "decoder" the writer reads the prompt's last token as well.
    """
    cache = handoff(prompt.cache, prompt.config, writer.config, first_token)
    if first_token == "full":
        lengths = jnp.maximum(batch.answer_lengths - 1, 0)
        rest, _ = extend(writer, batch.answer[:, :-1], cache, lengths, remat)
        return jnp.concatenate([prompt.logits[:, None], rest], axis=1)
    last = jnp.maximum(batch.prompt_lengths - 1, 0)[:, None]
    last_token = jnp.take_along_axis(batch.prompt, last, axis=1)
    inputs = jnp.concatenate([last_token, batch.answer[:, :-1]], axis=1)
    logits, _ = extend(writer, inputs, cache, batch.answer_lengths, remat)
    return logits


def answer_log_likelihoods(
    reader: Model, writer: Model, batch: Batch, first_token: str
) -> Float[Array, "B R"]:
    """Log-probability of every answer token; 0 beyond the answer's length."""
    prompt = read_prompt(reader, batch, "none")
    logits = answer_logits(prompt, writer, batch, first_token, "none")
    return jnp.where(_in_answer(batch), _log_likelihoods(logits, batch.answer), 0.0)


def loss_sums(
    models: dict[str, Model],
    roles: tuple[str, str],
    trained: frozenset[str],
    objective: Objective,
    batch: Batch,
    remat: str,
) -> dict[str, Float[Array, ""]]:
    """Sums over the tokens that a trained model answers for, and their number.

    Args:
      models: by name; `full` must be there where the KL divergence counts.
      roles: names of reader and writer.
      trained: names of the models that training changes. The first answer token counts only
        where the model that gives it is one of them.
      objective: what is minimised.
      batch: padded rows; a row with an empty answer adds nothing.
      remat: what the backward pass recomputes in trained models.

    Returns:
      `loss`, `cross_entropy` and `kl` (0 where it does not count) in nats, and `tokens`.
    """
    reader, writer = (models[name] for name in roles)
    remats = {name: remat if name in trained else "none" for name in models}
    prompt = read_prompt(reader, batch, remats[roles[0]])
    logits = answer_logits(prompt, writer, batch, objective.first_token, remats[roles[1]])
    counted = _in_answer(batch)
    if objective.first_token == "full" and roles[0] not in trained:
        counted = counted & (jnp.arange(counted.shape[1]) > 0)
    cross_entropy = -jnp.sum(jnp.where(counted, _log_likelihoods(logits, batch.answer), 0.0))
    kl = jnp.zeros(())
    if objective.kl_weight:
        full = models["full"]
        full_prompt = prompt if roles[0] == "full" else read_prompt(full, batch, "none")
        target = answer_logits(full_prompt, full, batch, "full", "none")
        divergence = _kl(jax.lax.stop_gradient(target), logits, objective.kl_temperature)
        kl = jnp.sum(jnp.where(counted, divergence, 0.0))
    loss = objective.cross_entropy_weight * cross_entropy + objective.kl_weight * kl
    tokens = jnp.sum(counted).astype(jnp.float32)
    return {"loss": loss, "cross_entropy": cross_entropy, "kl": kl, "tokens": tokens}


def _in_answer(batch: Batch) -> Array:
    return jnp.arange(batch.answer.shape[1]) < batch.answer_lengths[:, None]


def _log_likelihoods(logits: Array, tokens: Array) -> Array:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _kl(target: Array, logits: Array, temperature: float) -> Array:
    target = jax.nn.log_softmax(target / temperature)
    logits = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - logits), axis=-1)
