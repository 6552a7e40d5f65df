"""How far the logits of one pair are from those of another while both write the same answers."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from overfill_jax.data.instructions import Example
from overfill_jax.inference.buckets import bucket
from overfill_jax.inference.compiled import Pairing
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.serving_cache import ServingCache
from overfill_jax.inference.serving_model import ServingModel, extend, logits_of, prefill

SMALLEST_ANSWER_BUCKET = 4


def logits_errors(
    exact: Generator, other: Generator, examples: Sequence[Example], batch_size: int
) -> Float[np.ndarray, "tokens"]:
    """|other - exact| / |exact| of the logits for every answer token but the first.

    The first token belongs to the reading of the prompt. A constant added to all logits of a token
    changes nothing, so they are taken from their mean.

    Args:
      exact: the pair that is right.
      other: the same with less precision.
      examples: prompts and the answers that are written.
      batch_size: rows at a time.
    """
    slots = bucket(max(len(one.answer) for one in examples), SMALLEST_ANSWER_BUCKET)
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        prompts, lengths = exact.padded([one.prompt.tolist() for one in batch], batch_size)
        answers = np.zeros((batch_size, slots), np.int32)
        for row, one in enumerate(batch):
            answers[row, : len(one.answer)] = one.answer
        (reader, writer, how), (other_reader, other_writer, other_how) = exact.pair, other.pair
        caches = (
            _begin(reader, writer, prompts, lengths, how, slots),
            _begin(other_reader, other_writer, prompts, lengths, other_how, slots),
        )
        errors = np.asarray(_errors((writer, other_writer), caches, answers))
        found += [errors[row, : len(one.answer) - 1] for row, one in enumerate(batch)]
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("how", "slots"))
def _begin(
    reader: ServingModel,
    writer: ServingModel,
    prompts: Int[np.ndarray | Array, "B P"],
    lengths: Int[np.ndarray | Array, "B"],
    how: Pairing,
    slots: int,
) -> ServingCache:
    """The cache behind the prompts as the writer has it when it reads the first answer token."""
    _, read = prefill(reader, prompts, lengths, prompts.shape[1] + slots)
    cache = read.crossing(how.kept).astype(how.dtype)
    if how.first_token == "full":
        return cache
    at = jnp.maximum(lengths - 1, 0)  # it reads the prompt's last token itself, as in hand_over
    last = jnp.take_along_axis(prompts, at[:, None], axis=1)
    _, cache = extend(writer, last, dataclasses.replace(cache, lengths=at))
    return dataclasses.replace(cache, lengths=lengths)


@jax.jit
def _errors(
    writers: tuple[ServingModel, ServingModel],
    caches: tuple[ServingCache, ServingCache],
    answers: Int[np.ndarray | Array, "B R"],
) -> Float[Array, "B R"]:
    """Of the logits behind every answer token."""

    # Token by token, so that only one token's logits exist at a time.
    def step(caches, tokens):
        logits, after = [], []
        for writer, cache in zip(writers, caches, strict=True):
            hidden, cache = extend(writer, tokens[:, None], cache)
            after.append(dataclasses.replace(cache, lengths=cache.lengths + 1))
            of_writer = logits_of(writer, hidden[:, 0])
            logits.append(of_writer - of_writer.mean(axis=-1, keepdims=True))
        exact, other = logits
        return tuple(after), jnp.linalg.norm(other - exact, axis=-1) / jnp.linalg.norm(
            exact, axis=-1
        )

    return jax.lax.scan(step, caches, answers.T)[1].T
