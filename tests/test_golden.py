"""Every family against plain torch: importance, the cut, and both ways of two-stage decoding.

The golden arrays come with the repository; `tests/fixtures/make_fixtures.py` makes them, row by
row, so that equality here is also that of ragged batches with rows alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.pruning.choose import Kept, choose
from overfill_jax.pruning.cut import cut
from overfill_jax.pruning.importance import CalibrationBatch, measure_importance
from overfill_jax.pruning.sizes import kept_sizes
from overfill_jax.training.losses import Terms
from overfill_jax.training.objective import Objective, answer_log_likelihoods, loss_sums
from overfill_jax.two_stage import extend, handoff, prefill
from overfill_jax.weights.folders import load_model
from tests.builders import Rows
from tests.weights.conftest import MODELS, NAMES

LIKELIHOODS = jax.jit(answer_log_likelihoods, static_argnums=(3, 4))
LOSS_SUMS = jax.jit(loss_sums, static_argnums=(1, 2, 3, 5))


@pytest.fixture(scope="module", params=NAMES)
def family(request):
    """Full model, decoder and golden arrays; the decoder is cut by the golden indices."""
    with np.load(MODELS / request.param / "golden.npz") as arrays:
        golden = dict(arrays)
    full = load_model(MODELS / request.param)
    kept = Kept(golden["kept_hidden"], golden["kept_intermediate"])
    return full, cut(full, kept), golden


def rows_of(golden):
    names = ("prompts", "prompt_lengths", "answers", "answer_lengths")
    return Rows(*(golden[name] for name in names))


def test_importance_and_what_it_keeps(family):
    full, _, golden = family
    every = np.ones(golden["tokens"].shape, bool)
    batch = CalibrationBatch(golden["tokens"], every, every)
    importance = measure_importance(full, [batch], "signed_mean", "l2")
    np.testing.assert_allclose(importance.hidden, golden["importance_hidden"], rtol=1e-4)
    np.testing.assert_allclose(
        importance.intermediate, golden["importance_intermediate"], rtol=1e-4
    )
    ratios = map(float, golden["ratios"])
    sizes = kept_sizes(full.config, *ratios, 1, 0.0, 0.0, 0.0, "importance")
    kept = choose(full.config, importance, sizes, "importance", "importance", 0)
    np.testing.assert_array_equal(kept.hidden, golden["kept_hidden"])
    np.testing.assert_array_equal(kept.intermediate, golden["kept_intermediate"])


@jax.jit
def two_stage_logits(full, decoder, prompts, lengths, answers):
    first, cache = prefill(full, prompts, lengths, answers.shape[1])
    cache = handoff(cache, full.config, decoder.config, "full")
    return first, extend(decoder, answers, cache)[0]


def test_logits_of_ragged_rows(family):
    full, decoder, golden = family
    inputs = golden["prompts"], golden["prompt_lengths"], golden["answers"]
    first, logits = two_stage_logits(full, decoder, *map(jnp.asarray, inputs))
    np.testing.assert_allclose(first, golden["first_logits"], atol=2e-4, rtol=0)
    for row, length in enumerate(golden["answer_lengths"]):
        expected = golden["answer_logits"][row, :length]
        np.testing.assert_allclose(logits[row, :length], expected, atol=2e-4, rtol=0)


def test_the_loss_that_training_minimises(family):
    full, decoder, golden = family
    batch = jax.tree.map(jnp.asarray, rows_of(golden).batch())
    likelihoods = LIKELIHOODS(full, decoder, batch, "full", 3)
    per_row = -np.asarray(likelihoods)[:, 1:].sum(axis=1) / (golden["answer_lengths"] - 1)
    np.testing.assert_allclose(per_row, golden["loss"], atol=1e-4, rtol=0)
    first = np.asarray(jax.nn.log_softmax(golden["first_logits"]))
    expected = first[np.arange(len(first)), golden["answers"][:, 0]]
    np.testing.assert_allclose(likelihoods[:, 0], expected, atol=1e-4, rtol=0)
    objective = Objective(Terms(1.0, 0.0, 1.0, chunk=3), "full", False)
    models, trained = {"full": full, "decoder": decoder}, frozenset({"decoder"})
    sums = LOSS_SUMS(models, ("full", "decoder"), trained, objective, batch, "none")
    counted = golden["answer_lengths"] - 1
    assert int(sums["tokens"]) == counted.sum()
    expected = (golden["loss"] * counted).sum() / counted.sum()
    np.testing.assert_allclose(sums["loss"] / sums["tokens"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("first_token", "name"), [("full", "greedy"), ("decoder", "greedy_by_decoder")]
)
def test_greedy_answers_to_ragged_prompts(family, first_token, name):
    full, decoder, golden = family
    generator = Generator(full, decoder, first_token, (), 0)
    lengths = golden["prompt_lengths"]
    prompts = [row[:n].tolist() for row, n in zip(golden["prompts"], lengths, strict=True)]
    answers = generator.generate(prompts, GREEDY, golden[name].shape[1], len(prompts))
    assert [answer.tokens for answer in answers] == golden[name].tolist()
