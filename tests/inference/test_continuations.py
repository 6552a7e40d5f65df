"""Likelihoods of continuations, against training's objective and against what is written."""

import jax
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.inference import continuations
from overfill_jax.inference.continuations import Likelihood, likelihoods
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.handoff import Handoff
from overfill_jax.training.objective import answer_log_likelihoods
from tests.builders import make_model, make_rows


@pytest.fixture(scope="module")
def full():
    return make_model(0)


@pytest.fixture(scope="module")
def decoder():
    return make_model(1, hidden_size=16, intermediate_size=24)


@pytest.fixture(scope="module")
def shallow():
    """A decoder of one layer of three and one kv head of two."""
    shape = {"num_layers": 1, "num_kv_heads": 1, "num_heads": 2}
    return make_model(1, hidden_size=16, handoff=Handoff((1,), ((1,),)), **shape)


def generator(reader, writer, first_token="full", cache="", refresh=None):
    return Generator(
        reader, writer, first_token, stop_ids=(), pad_id=0, cache=cache, refresh=refresh
    )


def split(rows):
    prompts, answers, _ = zip(*rows.pieces(), strict=True)
    return list(prompts), list(answers)


def expected(reader, writer, rows, first_token):
    evaluate = jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk"))
    found = evaluate(reader, writer, rows.batch(), first_token=first_token, chunk=7)
    return np.asarray(found).sum(axis=1)


def log_probabilities(found):
    return [one.log_probability for one in found]


@pytest.mark.parametrize("first_token", ["full", "decoder"])
@pytest.mark.parametrize(
    "writes", [pytest.param("full", marks=pytest.mark.long), "decoder", "shallow"]
)
def test_is_what_training_maximises(request, full, writes, first_token):
    writer, rows = request.getfixturevalue(writes), make_rows()
    found = likelihoods(generator(full, writer, first_token), *split(rows), batch_size=4)
    by_formula = expected(full, writer, rows, first_token)
    np.testing.assert_allclose(log_probabilities(found), by_formula, atol=1e-4)


def test_long_ones_are_read_in_chunks(full, decoder, monkeypatch):
    rows = make_rows()
    pair = generator(full, decoder)
    at_once = log_probabilities(likelihoods(pair, *split(rows), batch_size=4))
    monkeypatch.setattr(continuations, "CONTINUATION_CHUNK", 4)
    continuations.judge.clear_cache()
    in_chunks = log_probabilities(likelihoods(pair, *split(rows), batch_size=4))
    continuations.judge.clear_cache()
    np.testing.assert_allclose(in_chunks, at_once, atol=1e-5)


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_greedy_is_what_would_be_written(full, decoder, first_token):
    pair, (prompts, _) = generator(full, decoder, first_token), split(make_rows())
    written = [answer.tokens for answer in pair.generate(prompts, GREEDY, 8, batch_size=4)]
    assert all(one.greedy for one in likelihoods(pair, prompts, written, batch_size=4))
    for place in (0, 3, 7):
        others = [[*a[:place], (a[place] + 1) % 41, *a[place + 1 :]] for a in written]
        assert not any(one.greedy for one in likelihoods(pair, prompts, others, batch_size=4))


@pytest.mark.parametrize("writes", ["decoder", pytest.param("shallow", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "refresh", [Refresh(1), Refresh(99, entropy=1e-9), Refresh(4, strictness=1.0)]
)
def test_refreshed_at_every_token_is_the_full_models(request, full, writes, refresh):
    """And so is a draft of which only that stands which the full model would have written."""
    writer, rows = request.getfixturevalue(writes), make_rows()
    alone = log_probabilities(likelihoods(generator(full, full), *split(rows), 4))
    pair = generator(full, writer, refresh=refresh)
    found = log_probabilities(likelihoods(pair, *split(rows), 4))
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert not np.isclose(
        alone, log_probabilities(likelihoods(generator(full, writer), *split(rows), 4)), atol=1e-2
    ).any()


def test_a_refresh_that_no_answer_reaches_changes_nothing(full, decoder):
    rows = make_rows()
    never, none = (
        log_probabilities(likelihoods(generator(full, decoder, refresh=how), *split(rows), 4))
        for how in (Refresh(99), None)
    )
    np.testing.assert_allclose(never, none, atol=1e-4)


@pytest.mark.parametrize(
    ("first_token", "cache"),
    [pytest.param("full", "int8", marks=pytest.mark.long), ("decoder", "")],
)
def test_greedy_is_what_would_be_written_with_a_refresh(full, decoder, first_token, cache):
    pair = generator(full, decoder, first_token, cache, Refresh(3))
    prompts, _ = split(make_rows())
    written = [answer.tokens for answer in pair.generate(prompts, GREEDY, 8, batch_size=4)]
    without = generator(full, decoder, first_token, cache).generate(prompts, GREEDY, 8, 4)
    assert written != [answer.tokens for answer in without]
    assert all(one.greedy for one in likelihoods(pair, prompts, written, batch_size=4))
    for place in (0, 3, 7):
        others = [[*a[:place], (a[place] + 1) % 41, *a[place + 1 :]] for a in written]
        assert not any(one.greedy for one in likelihoods(pair, prompts, others, batch_size=4))


def test_drafts_that_stand_in_part_have_no_likelihoods(full, decoder):
    pair = generator(full, decoder, refresh=Refresh(4, strictness=0.5))
    with pytest.raises(
        InputError, match=r"generate\.refresh_strictness: found 0\.5, expected 0 or"
    ):
        likelihoods(pair, [[1]], [[1]], batch_size=1)


def test_all_first_tokens_are_one_in_probability(full, decoder):
    pair, vocabulary = generator(full, decoder), full.config.vocab_size
    found = likelihoods(pair, [[3, 1]] * vocabulary, [[i] for i in range(vocabulary)], 4)
    assert np.exp(log_probabilities(found)).sum() == pytest.approx(1, abs=1e-5)
    assert sum(one.greedy for one in found) == 1


def test_does_not_depend_on_the_batch(full, decoder):
    rows, pair = make_rows(), generator(full, decoder)
    together, alone = (likelihoods(pair, *split(rows), batch_size=n) for n in (4, 1))
    np.testing.assert_allclose(log_probabilities(together), log_probabilities(alone), atol=1e-5)


def test_of_an_integer_cache(full, decoder):
    rows = make_rows()
    exact, near = (
        log_probabilities(likelihoods(generator(full, decoder, cache=dtype), *split(rows), 4))
        for dtype in ("", "int8")
    )
    assert exact != near
    np.testing.assert_allclose(near, exact, rtol=0.02)


def test_nothing_is_certain(full, decoder):
    pair = generator(full, decoder)
    found = likelihoods(pair, [[1], [1, 2], [2]], [[], [5], []], batch_size=2)
    assert found[0] == found[2] == Likelihood(0.0, True)
    assert found[1].log_probability < 0
    assert likelihoods(pair, [], [], batch_size=2) == []


@pytest.mark.parametrize(
    "prompt, continuation, message",
    [
        ([], [1], "prompt 1: found no tokens"),
        ([1], [1] * 10_000, "prompt 1: 1 tokens and 10000 new ones make 10001"),
        ([10_000], [1], "prompt 1: found token 10000"),
    ],
)
def test_bad_prompts_are_named(full, decoder, prompt, continuation, message):
    with pytest.raises(InputError, match=message):
        likelihoods(generator(full, decoder), [[1], prompt], [[1], continuation], batch_size=2)
