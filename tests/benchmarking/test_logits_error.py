"""Errors of logits against both pairs written out by the functions that training uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax import two_stage
from overfill_jax.benchmarking.logits_error import logits_errors
from overfill_jax.data.instructions import Example
from overfill_jax.inference.generation import Generator
from overfill_jax.model.transformer import Model
from tests.builders import CONFIG, random_model

PROMPTS, ANSWERS = (6, 6, 9), (7, 1, 7)
PREFILL = jax.jit(two_stage.prefill, static_argnums=3)
EXTEND = jax.jit(two_stage.extend)


def example_of(row: int) -> Example:
    rng = np.random.default_rng(row)
    prompt, answer = (
        rng.integers(0, CONFIG.vocab_size, count[row]).astype(np.int32)
        for count in (PROMPTS, ANSWERS)
    )
    return Example(row, prompt, answer, "", "")


def logits_by_hand(full: Model, decoder: Model, example: Example, first_token: str):
    """Behind every answer token but the last, from their mean."""
    prompt, answer = jnp.asarray(example.prompt)[None], jnp.asarray(example.answer)[None]
    lengths = jnp.array([prompt.shape[1]])
    _, cache = PREFILL(full, prompt, lengths, answer.shape[1] + 1)
    cache = two_stage.handoff(cache, full.config, decoder.config, first_token)
    if first_token == "decoder":
        _, cache = EXTEND(decoder, prompt[:, -1:], cache)
    logits = EXTEND(decoder, answer, cache)[0][0]
    return logits - logits.mean(axis=-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_every_answer_token_but_the_first_counts(first_token):
    full, decoder = random_model(0, num_layers=1), random_model(1, num_layers=1, hidden_size=14)
    other = jax.tree.map(lambda x: 1.02 * x, decoder)
    examples = [example_of(row) for row in range(3)]
    exact, changed = (Generator(full, writer, first_token, (), 0) for writer in (decoder, other))
    found = logits_errors(exact, changed, examples, batch_size=2)
    expected = []
    for example in examples:
        right, wrong = (
            np.asarray(logits_by_hand(full, writer, example, first_token))[:-1]
            for writer in (decoder, other)
        )
        expected += list(np.linalg.norm(wrong - right, axis=-1) / np.linalg.norm(right, axis=-1))
    assert len(found) == sum(ANSWERS) - len(ANSWERS)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert not logits_errors(exact, exact, examples, batch_size=2).any()
