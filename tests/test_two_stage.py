"""The contract between the two models, in float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax import two_stage
from overfill_jax.errors import InputError
from overfill_jax.model.transformer import hidden_states, unembed
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.two_stage import check_handoff, handoff
from tests.builders import CONFIG, make_model, make_rows

prefill = jax.jit(two_stage.prefill, static_argnames="capacity")
extend = jax.jit(two_stage.extend)
TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def full():
    return make_model()


@pytest.fixture(scope="module")
def decoder(full):
    rng = np.random.default_rng(0)
    hidden = rng.choice(CONFIG.hidden_size, 10, replace=False)
    layers = [rng.choice(CONFIG.intermediate_size, 16, replace=False) for _ in range(3)]
    return cut(full, Kept(hidden, np.stack(layers)))


def whole_row(model, prompt, answer):
    """Logits of one unpadded row in one pass without a cache."""
    return whole_logits(model, jnp.concatenate([prompt, answer])[None])


@jax.jit
def whole_logits(model, tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    hidden, _, _ = hidden_states(model, tokens, positions, jnp.ones_like(tokens))
    return unembed(model, hidden)[0]


def rows_of(batch):
    for b in range(len(batch.prompt)):
        prompt = batch.prompt[b, : batch.prompt_lengths[b]]
        yield b, prompt, batch.answer[b, : batch.answer_lengths[b]]


def test_cached_ragged_batch_equals_uncached_rows(full):
    batch = make_rows()
    first, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=7)
    rest, _ = extend(full, batch.answer, cache, batch.answer_lengths)
    for b, prompt, answer in rows_of(batch):
        expected = whole_row(full, prompt, answer)
        np.testing.assert_allclose(first[b], expected[len(prompt) - 1], **TOLERANCE)
        np.testing.assert_allclose(rest[b, : len(answer)], expected[len(prompt) :], **TOLERANCE)


def test_padding_tokens_change_nothing(full, decoder):
    batch = make_rows()
    junk = jnp.where(batch.prompt == 0, 17, batch.prompt)
    results = []
    for prompt in (batch.prompt, junk):
        first, cache = prefill(full, prompt, batch.prompt_lengths, capacity=7)
        rest, _ = extend(decoder, batch.answer, cache, batch.answer_lengths)
        results.append((first, rest[:, 0]))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_single_steps_equal_one_call(full, decoder):
    batch = make_rows()
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=7)
    at_once, end = extend(decoder, batch.answer, cache)
    for t in range(7):
        step, cache = extend(decoder, batch.answer[:, t : t + 1], cache)
        np.testing.assert_allclose(step[:, 0], at_once[:, t], **TOLERANCE)
    np.testing.assert_allclose(cache.key, end.key, **TOLERANCE)
    np.testing.assert_array_equal(cache.lengths, end.lengths)


def test_ragged_pieces_equal_one_call(full, decoder):
    """An answer read in two padded pieces leaves holes in the slots, and nothing else."""
    batch = make_rows()
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=14)
    whole, _ = extend(decoder, batch.answer, cache, batch.answer_lengths)
    split = batch.answer_lengths // 2
    _, cache = extend(decoder, batch.answer, cache, split)
    take = jax.vmap(functools.partial(jnp.roll, axis=0))
    rest, _ = extend(decoder, take(batch.answer, -split), cache, batch.answer_lengths - split)
    for b, _, answer in rows_of(batch):
        tail = len(answer) - int(split[b])
        np.testing.assert_allclose(rest[b, :tail], whole[b, split[b] : len(answer)], **TOLERANCE)


def test_extending_leaves_the_prompt_alone(full, decoder):
    batch = make_rows()
    _, before = prefill(full, batch.prompt, batch.prompt_lengths, capacity=7)
    _, after = extend(decoder, batch.answer, before, batch.answer_lengths)
    slots = batch.prompt.shape[1]
    np.testing.assert_array_equal(before.key[:, :, :slots], after.key[:, :, :slots])
    np.testing.assert_array_equal(before.value[:, :, :slots], after.value[:, :, :slots])
    np.testing.assert_array_equal(before.segments[:, :slots], after.segments[:, :slots])


def test_the_decoder_reads_the_full_models_cache(full, decoder):
    """What the decoder says depends on who read the prompt."""
    batch = make_rows()
    _, from_full = prefill(full, batch.prompt, batch.prompt_lengths, capacity=7)
    _, from_decoder = prefill(decoder, batch.prompt, batch.prompt_lengths, capacity=7)
    behind_full, _ = extend(decoder, batch.answer, from_full)
    alone, _ = extend(decoder, batch.answer, from_decoder)
    assert jnp.max(jnp.abs(behind_full - alone)) > 0.1


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_unpruned_handoff_equals_the_full_model(full, first_token):
    batch = make_rows()
    first, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=8)
    cache = handoff(cache, full.config, full.config, first_token)
    if first_token == "decoder":
        last = jnp.take_along_axis(batch.prompt, batch.prompt_lengths[:, None] - 1, axis=1)
        logits, cache = extend(full, last, cache)
        np.testing.assert_allclose(logits[:, 0], first, **TOLERANCE)
    rest, _ = extend(full, batch.answer, cache, batch.answer_lengths)
    for b, prompt, answer in rows_of(batch):
        expected = whole_row(full, prompt, answer)[len(prompt) :]
        np.testing.assert_allclose(rest[b, : len(answer)], expected, **TOLERANCE)


def test_handing_over_without_the_last_position_shortens_by_one(full):
    batch = make_rows()
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=1)
    shorter = handoff(cache, full.config, full.config, "decoder")
    np.testing.assert_array_equal(shorter.lengths, batch.prompt_lengths - 1)
    np.testing.assert_array_equal(jnp.sum(shorter.segments, axis=1), batch.prompt_lengths - 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 2),
        ("num_kv_heads", 4),
        ("head_dim", 16),
        ("rope", dataclasses.replace(CONFIG.rope, theta=5e5)),
        ("vocab_size", 40),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(field, value):
    other = dataclasses.replace(CONFIG, **{field: value})
    with pytest.raises(InputError, match=f"{field} is .*L=.*L=3, K=2, H=8"):
        check_handoff(CONFIG, other)


def test_handoff_casts_to_the_decoders_dtype(full):
    batch = make_rows()
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=1)
    narrow = dataclasses.replace(CONFIG, dtype="bfloat16")
    assert handoff(cache, CONFIG, narrow, "full").key.dtype == jnp.bfloat16
