"""Likelihoods of a question's choices: the reader reads the prompt, the writer goes on with each.

A choice's first token is the reader's to judge where it gives an answer's first token; with choices
of one token, then, a pair says what its full model says.
"""

import itertools
from collections.abc import Iterator, Sequence

from overfill_jax.evaluation.exam import Asked
from overfill_jax.inference.continuations import likelihoods
from overfill_jax.inference.generation import Generator

# Batches of choices that are ranked before the first of them is told.
BATCHES = 4


def rank(
    generator: Generator, asked: Sequence[Asked], batch_size: int
) -> Iterator[tuple[Asked, list[float]]]:
    """Yields every question with the log-likelihoods of its choices, in nats, longest first.

    Args:
      generator: of the pair; a model alone is both.
      asked: questions that have choices.
      batch_size: choices at a time.
    """
    # Prompts of like length share a batch, so that little of it is padding.
    ordered = sorted(asked, key=lambda one: -len(one.tokens))
    together = max(1, BATCHES * batch_size // max(len(one.choices) for one in asked))
    for start in range(0, len(ordered), together):
        questions = ordered[start : start + together]
        prompts = [one.tokens for one in questions for _ in one.choices]
        choices = [choice for one in questions for choice in one.choices]
        found = iter(likelihoods(generator, prompts, choices, batch_size))
        for one in questions:
            each = itertools.islice(found, len(one.choices))
            yield one, [likelihood.log_probability for likelihood in each]
