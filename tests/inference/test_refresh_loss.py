"""Losses of reference answers under a refresh policy, against passes made by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.inference.refresh_loss import refreshed_log_likelihoods
from overfill_jax.inference.serving_model import lay_out
from overfill_jax.model.handoff import Handoff
from overfill_jax.training.objective import answer_log_likelihoods
from tests.builders import make_model, make_rows

SLOTS = 7


@pytest.fixture(scope="module")
def pair():
    return make_model(0), make_model(1, hidden_size=16, intermediate_size=24)


@pytest.fixture(scope="module")
def rows():
    return make_rows(rows=5, answer=SLOTS)


def found(pair, rows, interval, entropy=math.inf, first_token="full"):
    tokens = np.zeros((5, 12 + SLOTS), np.int32)
    for row, (prompt, answer, _) in enumerate(rows.pieces()):
        tokens[row, : len(prompt) + len(answer)] = np.concatenate([prompt, answer])
    likelihoods, _ = refreshed_log_likelihoods(
        *map(lay_out, pair),
        jnp.asarray(tokens),
        jnp.asarray(rows.prompt_lengths),
        jnp.int32(interval),
        jnp.float32(entropy),
        slots=SLOTS,
        first_token=first_token,
        dtype="float32",
    )
    return np.where(np.arange(SLOTS) < rows.answer_lengths[:, None], likelihoods, 0)


def expected(reader, writer, rows, first_token="full"):
    evaluate = jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk"))
    likelihoods = evaluate(reader, writer, rows.batch(), first_token=first_token, chunk=SLOTS)
    return np.where(np.arange(SLOTS) < rows.answer_lengths[:, None], likelihoods, 0)


@pytest.fixture(scope="module")
def shallow():
    """A decoder of one layer of three and one kv head of two."""
    shape = {"num_layers": 1, "num_kv_heads": 1, "num_heads": 2}
    return make_model(1, hidden_size=16, handoff=Handoff((1,), ((1,),)), **shape)


@pytest.mark.long
def test_of_a_cache_that_crosses_in_part(pair, rows, shallow):
    pair = pair[0], shallow
    np.testing.assert_allclose(found(pair, rows, 99), expected(*pair, rows), atol=1e-5)


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_without_refresh_it_is_two_stage_decoding(pair, rows, first_token):
    by_formula = expected(*pair, rows, first_token)
    assert np.abs(by_formula).max() > 1
    np.testing.assert_allclose(
        found(pair, rows, 99, first_token=first_token), by_formula, atol=1e-5
    )


def test_at_every_token_it_is_the_full_model(pair, rows):
    full = expected(pair[0], pair[0], rows)
    np.testing.assert_allclose(found(pair, rows, 1), full, atol=1e-5)
    np.testing.assert_allclose(found(pair, rows, 99, entropy=1e-9), full, atol=1e-5)


def test_a_block_in_between_is_a_prompt_that_holds_what_came_before(pair, rows):
    interval = 3
    likelihoods = found(pair, rows, interval)
    for row, (prompt, answer, _) in enumerate(rows.pieces()):
        for start in range(0, len(answer), interval):
            block = answer[start : start + interval]
            longer = np.concatenate([prompt, answer[:start]])
            alone = make_rows(rows=1)
            alone = type(alone)(
                np.pad(longer, (0, 20 - len(longer)))[None],
                np.array([len(longer)]),
                np.pad(block, (0, SLOTS - len(block)))[None],
                np.array([len(block)]),
            )
            by_hand = expected(*pair, alone)[0, : len(block)]
            np.testing.assert_allclose(likelihoods[row, start:][: len(block)], by_hand, atol=1e-5)
