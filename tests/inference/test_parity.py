"""Greedy answers of pairs whose every token the reference code wrote first."""

import numpy as np
import pytest

from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.weights.folders import load_model


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_greedy_tokens_equal_the_reference(shared_data, family):
    folder = shared_data / "parity" / family
    golden = np.load(folder / "golden.npz")
    lengths, expected = golden["prompt_lengths"], golden["greedy"].tolist()
    prompts = [row[:n].tolist() for row, n in zip(golden["prompts"], lengths, strict=True)]
    pair = Generator(load_model(folder / "full"), load_model(folder / "decoder"), "full", (), 0)
    answers = pair.generate(prompts, GREEDY, len(expected[0]), batch_size=len(prompts))
    assert [answer.tokens for answer in answers] == expected
