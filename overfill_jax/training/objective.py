"""What training minimises: the answers' tokens, teacher-forced behind their prompts' cache.

Paper, section 3.2. One path for every method: a *reader* reads the prompts, a *writer* goes on
from its cache. In two-stage training they are the full model and the decoder; a model alone is
both. A row may hold several examples, told apart by their segments.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from overfill_jax.data.batches import Batch
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model
from overfill_jax.training.losses import Terms, answer_losses, token_losses
from overfill_jax.two_stage import extend_hidden, handoff, prefill_hidden


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
      terms: of the loss of every answer token; the divergence is KL(full || writer).
      first_token: who gives the first answer token, "full" or "decoder".
    """

    terms: Terms
    first_token: str


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts that have been read: hidden states and cache, and the shape of who read them."""

    hidden: Float[Array, "B P D"]
    cache: KVCache
    config: ModelConfig


def read_prompts(reader: Model, batch: Batch, remat: str) -> Prompts:
    """Reads the prompts, with room for the whole answers in the cache."""
    hidden, cache = prefill_hidden(
        reader,
        batch.prompt,
        batch.prompt_segments,
        batch.prompt_positions,
        batch.answer.shape[1],
        remat,
    )
    return Prompts(hidden, cache, reader.config)


def writer_hidden(
    prompts: Prompts, writer: Model, batch: Batch, first_token: str, remat: str
) -> Float[Array, "B R D"]:
    """The writer's hidden states, slot r of which predicts `answer[:, r]`.

    In slot r the writer reads the answer's token before. In an answer's first slot that is the
    prompt's last token if the decoder gives the first answer token, and nothing if the full model
    does, whose hidden state then stands in `reader_hidden`.
    """
    cache = handoff(prompts.cache, prompts.config, writer.config, first_token)
    last = jnp.take_along_axis(batch.prompt, batch.prompt_end, axis=1)
    first = first_slots(batch)
    tokens = jnp.where(first, last, jnp.roll(batch.answer, 1, axis=1))
    segments = batch.answer_segments
    if first_token == "full":
        segments = jnp.where(first, 0, segments)
    hidden, _ = extend_hidden(writer, tokens, segments, batch.answer_positions - 1, cache, remat)
    return hidden


def reader_hidden(prompts: Prompts, batch: Batch) -> Float[Array, "B R D"]:
    """The reader's hidden states of the prompts' last tokens, in the slots of their answers."""
    return jnp.take_along_axis(prompts.hidden, batch.prompt_end[..., None], axis=1)


def first_slots(batch: Batch) -> Bool[Array, "B R"]:
    """Where answers begin."""
    before = jnp.pad(batch.answer_segments[:, :-1], ((0, 0), (1, 0)))
    return (batch.answer_segments != before) & (batch.answer_segments > 0)


def alone_hidden(
    prompts: Prompts, model: Model, batch: Batch, first_token: str, remat: str
) -> Float[Array, "B R D"]:
    """Hidden states that predict every answer token, of a model that read the prompts itself."""
    hidden = writer_hidden(prompts, model, batch, first_token, remat)
    if first_token == "decoder":
        return hidden
    return jnp.where(first_slots(batch)[..., None], reader_hidden(prompts, batch), hidden)


def answer_log_likelihoods(
    reader: Model, writer: Model, batch: Batch, first_token: str, chunk: int
) -> Float[Array, "B R"]:
    """Log-probability of every answer token; 0 in padding."""
    prompts = read_prompts(reader, batch, "none")
    hidden = writer_hidden(prompts, writer, batch, first_token, "none")
    losses = token_losses(writer, hidden, batch.answer, chunk)
    if first_token == "full":
        firsts = token_losses(reader, reader_hidden(prompts, batch), batch.answer, chunk)
        losses = jnp.where(first_slots(batch), firsts, losses)
    return jnp.where(batch.answer_segments > 0, -losses, 0.0)


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
      batch: rows; one without an answer adds nothing.
      remat: what the backward pass recomputes in trained models.

    Returns:
      `loss`, `cross_entropy` and `kl` (0 where it does not count) in nats, and `tokens`.
    """
    reader, writer = (models[name] for name in roles)
    remats = {name: remat if name in trained else "none" for name in models}
    prompts = read_prompts(reader, batch, remats[roles[0]])
    target = _target(models, roles, prompts, batch) if objective.terms.kl_weight else None
    counted, first = batch.answer_segments > 0, first_slots(batch)
    arguments = prompts, writer, batch, objective.first_token, remats[roles[1]]
    if roles[0] == roles[1]:
        parts = [(writer, alone_hidden(*arguments), batch.answer, counted)]
    elif objective.first_token == "decoder":
        parts = [(writer, writer_hidden(*arguments), batch.answer, counted)]
    else:
        parts = [(writer, writer_hidden(*arguments), batch.answer, counted & ~first)]
        if roles[0] in trained:
            parts += [(reader, reader_hidden(prompts, batch), batch.answer, first)]
    sums = [answer_losses(objective.terms, *part, target) for part in parts]
    return {
        "loss": sum(one.loss for one in sums),
        "cross_entropy": sum(one.cross_entropy for one in sums),
        "kl": sum(one.kl for one in sums),
        "tokens": sum(jnp.sum(counted, dtype=jnp.float32) for *_, counted in parts),
    }


def _target(
    models: dict[str, Model], roles: tuple[str, str], prompts: Prompts, batch: Batch
) -> tuple[Model, Float[Array, "B R D"]]:
    """The full model and its own hidden states for every answer token."""
    full = models["full"]
    if roles[0] != "full":
        prompts = read_prompts(full, batch, "none")
    return full, alone_hidden(prompts, full, batch, "full", "none")
