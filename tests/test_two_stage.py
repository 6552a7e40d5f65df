"""The contract between the two models, in float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax import two_stage
from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.transformer import Model, hidden_states, unembed
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


def pruned_attention(full, layers, kv_heads, seed=3):
    """A decoder of these layers and kv heads, one query head each, and fewer channels."""
    rng = np.random.default_rng(seed)
    hidden = np.sort(rng.choice(CONFIG.hidden_size, 10, replace=False))
    inner = np.tile(np.arange(16), (len(layers), 1))
    kv_heads = np.array(kv_heads)
    return cut(full, Kept(hidden, inner, np.array(layers), kv_heads, CONFIG.group_size * kv_heads))


def gathered(cache, layers, kv_heads):
    """Layer by layer, head by head."""
    pick = [
        (cache.key[layer][:, :, heads], cache.value[layer][:, :, heads])
        for layer, heads in zip(layers, map(np.array, kv_heads), strict=True)
    ]
    key, value = (jnp.stack(parts) for parts in zip(*pick, strict=True))
    return dataclasses.replace(cache, key=key, value=value)


KEPT = [
    ([0, 2], [[1], [0]]),
    ([1], [[0]]),
    ([0, 1, 2], [[0], [1], [1]]),
]


@pytest.mark.parametrize(("layers", "kv_heads"), KEPT)
@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_what_crosses_is_what_was_kept(full, layers, kv_heads, first_token):
    batch = make_rows()
    decoder = pruned_attention(full, layers, kv_heads)
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=8)
    crossed = handoff(cache, full.config, decoder.config, first_token)
    by_hand = gathered(cache, layers, kv_heads)
    np.testing.assert_array_equal(crossed.key, by_hand.key)
    np.testing.assert_array_equal(crossed.value, by_hand.value)
    whole = handoff(cache, full.config, full.config, first_token)
    np.testing.assert_array_equal(crossed.segments, whole.segments)
    np.testing.assert_array_equal(crossed.lengths, whole.lengths)
    logits, after = extend(decoder, batch.answer, crossed)
    assert after.key.shape == (len(layers), 4, 20, len(kv_heads[0]), CONFIG.head_dim)
    # The sub-model by hand: without a handoff it is a model of its own, on such a cache.
    alone = dataclasses.replace(decoder, config=dataclasses.replace(decoder.config, handoff=None))
    whole_segments = dataclasses.replace(by_hand, segments=whole.segments, lengths=whole.lengths)
    expected, _ = extend(alone, batch.answer, whole_segments)
    np.testing.assert_array_equal(logits, expected)


def test_a_depth_pruned_decoder_is_the_layers_run_by_hand(full):
    """Blocks 0 and 2 of the full model behind its own cache of these, token by token."""
    layers, batch = np.array([0, 2]), make_rows()
    every = np.tile(np.arange(CONFIG.intermediate_size), (2, 1))
    decoder = cut(full, Kept(np.arange(CONFIG.hidden_size), every, layers))
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=7)
    crossed = handoff(cache, full.config, decoder.config, "full")
    logits, _ = extend(decoder, batch.answer, crossed)
    params = full.params | {"layers": jax.tree.map(lambda x: x[layers], full.params["layers"])}
    config = dataclasses.replace(CONFIG, num_layers=2)
    cache = dataclasses.replace(cache, key=cache.key[layers], value=cache.value[layers])
    for t in range(batch.answer.shape[1]):
        by_hand, cache = extend(Model(config, params), batch.answer[:, t : t + 1], cache)
        np.testing.assert_allclose(logits[:, t], by_hand[:, 0], **TOLERANCE)


def test_where_everything_crosses_nothing_is_gathered(full, decoder):
    batch = make_rows()
    shallow = pruned_attention(full, [0, 2], [[1], [0]])
    _, cache = prefill(full, batch.prompt, batch.prompt_lengths, capacity=1)

    def program(reader, writer, cache):
        cross = functools.partial(
            handoff, full=reader.config, decoder=writer.config, first_token="full"
        )
        return str(jax.make_jaxpr(cross)(cache))

    assert "gather" in program(full, shallow, cache)
    assert "gather" not in program(full, decoder, cache)
    # A decoder that reads its own prompts goes on from its own cache.
    assert "gather" not in program(shallow, shallow, cache)


@pytest.mark.parametrize(
    ("layers", "kv_heads", "message"),
    [
        ((0, 3), ((0,), (1,)), r"its handoff names layer 3, expected 0\.\.2 \(cache \[L=3"),
        ((-1, 1), ((0,), (1,)), r"its handoff names layer -1, expected 0\.\.2"),
        ((0, 2), ((0,), (2,)), r"names layer 2, kv head 2, expected 0\.\.1 \(cache .*K=2"),
        ((0, 2), ((-1,), (0,)), r"names layer 0, kv head -1, expected 0\.\.1"),
    ],
)
def test_a_handoff_of_what_is_not_there_is_refused(layers, kv_heads, message):
    shape = {"num_layers": 2, "num_kv_heads": 1, "handoff": Handoff(layers, kv_heads)}
    decoder = dataclasses.replace(CONFIG, **shape)
    with pytest.raises(InputError, match=message):
        check_handoff(CONFIG, decoder)
    check_handoff(decoder, decoder)
    with pytest.raises(InputError, match=r"head_dim is 16 in the decoder"):
        check_handoff(CONFIG, dataclasses.replace(decoder, head_dim=16))


def test_a_handoff_of_another_shape_than_the_decoders_is_no_shape():
    for layers, kv_heads in (((0,), ((0,), (1,))), ((0, 1), ((0,), (0, 1))), ((0, 1), ((0,),))):
        shape = {"num_layers": 2, "num_kv_heads": 1, "handoff": Handoff(layers, kv_heads)}
        with pytest.raises(ValueError, match=r"handoff is of . layers with .*, expected 2 with 1"):
            dataclasses.replace(CONFIG, **shape)
