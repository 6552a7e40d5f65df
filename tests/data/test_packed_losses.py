"""From the rows of a file to the losses: packed, every example learns what it does alone."""

import json

import jax
import numpy as np
import pytest

from overfill_jax.data.instructions import ReadOptions
from overfill_jax.data.loader import TrainingLoader
from overfill_jax.data.mixture import load_mixture
from overfill_jax.data.packing import choose_shape
from overfill_jax.training.objective import answer_log_likelihoods
from tests.builders import make_model

ROWS = 2


@pytest.fixture
def mixture(chatml, tmp_path):
    """Conversations of one to three answers, every one of which is an example."""
    words = ["the", "cat", "has", "a", "red", "hat", "and", "the", "dog", "has", "two", "hats"]
    rng = np.random.default_rng(0)

    def say(role):
        return {"role": role, "content": " ".join(rng.choice(words, rng.integers(2, 7)))}

    talks = [
        {"messages": [say(role) for _ in range(1 + i % 3) for role in ("user", "assistant")]}
        for i in range(10)
    ]
    source = tmp_path / "talks.jsonl"
    source.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    options = ReadOptions("prompt", "response", "every", 200, 300)
    return load_mixture(str(source), "train", chatml, options, tmp_path / "tokens")


@pytest.mark.parametrize("cutoff", [False, True])
def test_packed_losses_are_those_of_rows_alone(mixture, cutoff):
    sizes = {"vocab_size": 400, "num_layers": 2, "max_position": 512}
    full, decoder = (make_model(seed, **sizes) for seed in (0, 1))
    scored = jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk"))
    found = []
    for packing in (False, True):
        shape = choose_shape(mixture.prompts, mixture.answers, cutoff, packing, 512, 0)
        loader = TrainingLoader(mixture, shape, ROWS, 0, cutoff, handoffs=False)
        scores = {}
        for step in range(loader.steps(1)):
            batch = loader.rows(step, 0, ROWS)
            likelihoods = scored(full, decoder, batch, first_token="full", chunk=64)
            for row, examples in zip(np.asarray(likelihoods), batch.examples, strict=True):
                for example in set(examples.tolist()) - {-1}:
                    scores.setdefault(example, row[examples == example])
        found.append(scores)
    alone, together = found
    assert alone.keys() == together.keys() == set(range(len(mixture)))
    for example, expected in alone.items():
        np.testing.assert_allclose(together[example], expected, atol=1e-5)
    lengths = [len(alone[example]) for example in range(len(mixture))]
    assert (lengths == mixture.answers.tolist()) is not cutoff
