"""Several examples in a row learn what each would learn in a row of its own."""

import functools

import jax
import numpy as np
import pytest

from overfill_jax.data.batches import lay_out
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.training import objective as objectives
from overfill_jax.training.losses import Terms
from overfill_jax.training.objective import Objective, answer_log_likelihoods
from tests.builders import make_model, make_rows

ROWS = make_rows(rows=6)


@functools.cache
def models():
    full = make_model(num_layers=2)
    layers = np.stack([np.arange(16), np.arange(8, 24)])
    return {"full": full, "decoder": cut(full, Kept(np.arange(4, 16), layers))}


def packed():
    """The six rows in two, one of four examples and one of two, behind a gap in neither."""
    pieces = ROWS.pieces()
    return lay_out([[pieces[i] for i in (3, 0, 5, 2)], [pieces[4], pieces[1]]], 56, 32)


def by_example(scores, batch):
    found = {}
    for row, examples in zip(np.asarray(scores), batch.examples, strict=True):
        for example in sorted(set(examples.tolist()) - {-1}):
            found[example] = row[examples == example]
    return found


@pytest.mark.parametrize("first_token", ["full", "decoder"])
@pytest.mark.parametrize("roles", [("full", "decoder"), ("decoder", "decoder")])
def test_every_answer_sees_its_own_prompt_and_past_alone(roles, first_token):
    reader, writer = (models()[name] for name in roles)
    likelihoods = jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk"))
    results = [
        by_example(likelihoods(reader, writer, batch, first_token=first_token, chunk=8), batch)
        for batch in (ROWS.batch(), packed())
    ]
    assert results[0].keys() == results[1].keys() == set(range(6))
    for example, alone in results[0].items():
        np.testing.assert_allclose(results[1][example], alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roles", "trained", "first_token"),
    [
        pytest.param(("full", "decoder"), {"decoder"}, "full", marks=pytest.mark.long),
        (("full", "decoder"), {"decoder"}, "decoder"),
        pytest.param(("full", "decoder"), {"full", "decoder"}, "full", marks=pytest.mark.long),
        pytest.param(("decoder", "decoder"), {"decoder"}, "full", marks=pytest.mark.long),
    ],
)
def test_losses_and_gradients_are_those_of_rows_alone(roles, trained, first_token):
    objective = Objective(Terms(1.0, 0.5, 1.5, chunk=8), first_token, False)

    @jax.jit
    def sums(params, batch):
        named = {
            name: m if name not in trained else type(m)(m.config, params[name])
            for name, m in models().items()
        }
        terms = objectives.loss_sums(named, roles, frozenset(trained), objective, batch, "none")
        return terms["loss"], terms

    params = {name: models()[name].params for name in trained}
    results = [
        jax.value_and_grad(sums, has_aux=True)(params, batch) for batch in (ROWS.batch(), packed())
    ]
    ((_, alone), gradients), ((_, together), others) = results
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, rtol=1e-5)
    for expected, found in zip(*map(jax.tree.leaves, (gradients, others)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-6)
