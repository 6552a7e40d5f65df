"""Likelihoods of a question's choices: the reader reads the prompt, the writer goes on with each.

A choice's first token is the reader's to judge where it gives an answer's first token; with choices
of one token, then, a pair says what its full model says.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from overfill_jax.data.batches import Batch, lay_out
from overfill_jax.evaluation.exam import Asked
from overfill_jax.inference.buckets import bucket
from overfill_jax.model.transformer import Model
from overfill_jax.training.objective import answer_log_likelihoods

# Answer slots of a row whose logits exist at a time.
LOSS_CHUNK = 64
SMALLEST_PROMPT, SMALLEST_CHOICE = 16, 4

# Of the module, so that systems of the same shapes share one compilation.
_log_likelihoods = jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk"))


def rank(
    reader: Model, writer: Model, asked: Sequence[Asked], first_token: str, batch_size: int
) -> Iterator[tuple[Asked, list[float]]]:
    """Yields every question with the log-likelihoods of its choices, in nats, longest first.

    Args:
      reader, writer: the pair; a model alone is both.
      asked: questions that have choices.
      first_token: who gives an answer's first token, `full` (the reader) or `decoder`.
      batch_size: choices at a time, but at least those of one question.
    """
    # Prompts of like length share a batch, so that little of it is padding.
    ordered = sorted(asked, key=lambda one: -len(one.tokens))
    most = max(len(one.choices) for one in asked)
    together = max(1, batch_size // most)
    for start in range(0, len(ordered), together):
        questions = ordered[start : start + together]
        batch = _batch(questions, together * most)
        found = _log_likelihoods(reader, writer, batch, first_token=first_token, chunk=LOSS_CHUNK)
        sums = np.asarray(found, np.float64).sum(axis=1).tolist()
        for one in questions:
            yield one, sums[: len(one.choices)]
            sums = sums[len(one.choices) :]


def _batch(questions: Sequence[Asked], rows: int) -> Batch:
    """A choice a row, behind its prompt; empty rows fill it."""
    pieces = [[(one.tokens, choice, 0)] for one in questions for choice in one.choices]
    prompt = max(len(one.tokens) for one in questions)
    answer = max(len(choice) for one in questions for choice in one.choices)
    return lay_out(
        [*pieces, *[[]] * (rows - len(pieces))],
        bucket(prompt, SMALLEST_PROMPT),
        bucket(answer, SMALLEST_CHOICE),
    )
