"""What training minimises: the answers' tokens, teacher-forced behind their prompts' cache.

Paper, section 3.2. One path for every method: a *reader* reads the prompts, a *writer* goes on
from its cache. In two-stage training they are the full model and the decoder; a model alone is
both. A row may hold several examples, told apart by their segments.

With several handoffs within an answer, as refresh has them, the reader reads the answers as well.
The writer reads a whole answer in one pass all the same: a token sees the reader's entries of all
that comes before its block, and of the block the writer's own.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
      handoffs: whether every block of an answer has one of its own, or the whole answer has one.
    """

    terms: Terms
    first_token: str
    handoffs: bool


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
    return _written(prompts, writer, batch, first_token, remat)[0]


def read_answers(
    prompts: Prompts, reader: Model, batch: Batch, first_token: str, remat: str
) -> tuple[Float[Array, "B R D"], Prompts]:
    """Reads the answers, too: hidden states as `writer_hidden`, and the cache with all of it."""
    hidden, cache = _written(prompts, reader, batch, first_token, remat)
    return hidden, dataclasses.replace(prompts, cache=cache)


def block_writer_hidden(
    read: Prompts, writer: Model, batch: Batch, first_token: str, remat: str
) -> Float[Array, "B R D"]:
    """`writer_hidden` where the reader hands over before every block of an answer.

    A block begins where refresh has just ended: the writer reads the last token given, of which
    there is no entry yet. What that block holds no longer matters to the next, so every token but
    the first counts, though in use the reader gives the last one of a block.

    Args:
      read: with the answers, from `read_answers`.
      writer: that goes on.
      batch: rows; a block is what has the same of `answer_starts`.
      first_token: who gives an answer's first token.
      remat: what the backward pass recomputes.
    """
    cache = handoff(read.cache, read.config, writer.config, "full")
    # Numbers that grow from block to block, so that a slot's blocks are a span of them.
    slots = batch.answer.shape[1]
    first_block = cache.segments * (slots + 1)
    place = jnp.arange(cache.capacity) - batch.prompt.shape[1]  # among the answers
    shown = cache.segments > 0
    cache = dataclasses.replace(
        cache,
        segments=jnp.where(shown, first_block + jnp.maximum(place + 1, 0), 0),
        until=jnp.where(shown, first_block + slots, 0),
    ).grow(slots)
    tokens, segments, positions = _inputs(batch, first_token)
    blocks = jnp.where(segments > 0, segments * (slots + 1) + batch.answer_starts, 0)
    return extend_hidden(writer, tokens, blocks, positions, cache, remat)[0]


def _written(
    prompts: Prompts, writer: Model, batch: Batch, first_token: str, remat: str
) -> tuple[Float[Array, "B R D"], KVCache]:
    cache = handoff(prompts.cache, prompts.config, writer.config, first_token)
    return extend_hidden(writer, *_inputs(batch, first_token), cache, remat)


def _inputs(
    batch: Batch, first_token: str
) -> tuple[Int[Array, "B R"], Int[Array, "B R"], Int[Array, "B R"]]:
    """Tokens, segments and positions of what the writer reads in every answer slot."""
    last = jnp.take_along_axis(batch.prompt, batch.prompt_end, axis=1)
    first = first_slots(batch)
    tokens = jnp.where(first, last, jnp.roll(batch.answer, 1, axis=1))
    segments = batch.answer_segments
    if first_token == "full":
        segments = jnp.where(first, 0, segments)
    return tokens, segments, batch.answer_positions - 1


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
    return _with_firsts(hidden, prompts, batch, first_token)


def _with_firsts(
    hidden: Float[Array, "B R D"], prompts: Prompts, batch: Batch, first_token: str
) -> Float[Array, "B R D"]:
    """The same of a reader that also predicts answers' first tokens."""
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
    answers, rest = None, (batch, objective.first_token, remats[roles[1]])
    if objective.handoffs:
        answers, read = read_answers(prompts, reader, *rest[:2], remats[roles[0]])
        hidden = block_writer_hidden(read, writer, *rest)
    else:
        hidden = writer_hidden(prompts, writer, *rest)
    target = None
    if objective.terms.kl_weight:
        target = _target(models, roles, prompts, answers, *rest[:2])
    counted, first = batch.answer_segments > 0, first_slots(batch)
    if roles[0] == roles[1]:
        hidden = _with_firsts(hidden, prompts, *rest[:2])
        parts = [(writer, hidden, batch.answer, counted)]
    elif objective.first_token == "decoder":
        parts = [(writer, hidden, batch.answer, counted)]
    else:
        parts = [(writer, hidden, batch.answer, counted & ~first)]
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
    models: dict[str, Model],
    roles: tuple[str, str],
    prompts: Prompts,
    answers: Float[Array, "B R D"] | None,
    batch: Batch,
    first_token: str,
) -> tuple[Model, Float[Array, "B R D"]]:
    """The full model and its own hidden states for every answer token."""
    full = models["full"]
    if roles[0] != "full":
        prompts = read_prompts(full, batch, "none")
    elif answers is not None:
        return full, _with_firsts(answers, prompts, batch, first_token)
    return full, alone_hidden(prompts, full, batch, "full", "none")
