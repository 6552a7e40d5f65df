"""Blocks that the decoder drafts and the full model reads again."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax import two_stage
from overfill_jax.errors import InputError
from overfill_jax.inference import generation
from overfill_jax.inference.acceptance import accepted
from overfill_jax.inference.compiled import compilations
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh, write_block
from overfill_jax.inference.sampling import GREEDY, Sampling, log_probabilities
from overfill_jax.inference.serving_model import extend, lay_out, logits_of, prefill
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from tests.builders import random_model

NEW, BATCH = 24, 6
WARM = Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=3)
LOSSLESS = Refresh(5, math.inf, 1.0)


@pytest.fixture(scope="module")
def near(full):
    """A decoder that often agrees with the full model, and often does not."""
    rng = np.random.default_rng(5)
    params = jax.tree.map(
        lambda x: x + 0.1 * jnp.asarray(rng.normal(size=x.shape), x.dtype), full.params
    )
    return dataclasses.replace(full, params=params)


def answers_of(reader, writer, prompts, refresh, sampling=GREEDY, stop_ids=(), first="full"):
    generator = Generator(reader, writer, first, stop_ids, 0, refresh=refresh)
    answers = generator.generate(prompts, sampling, NEW, BATCH)
    return [answer.tokens for answer in answers], generator


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_verified_greedy_answers_are_the_full_models(full, near, prompts, first_token):
    expected, _ = answers_of(full, full, prompts, None)
    alone, _ = answers_of(full, near, prompts, None)
    assert alone != expected
    found, generator = answers_of(full, near, prompts, LOSSLESS, first=first_token)
    assert found == expected
    assert 0.1 < generator.tally.kept / generator.tally.drafted < 0.9  # both ways were taken
    stops = (expected[0][3], expected[1][10])
    found, _ = answers_of(full, near, prompts, LOSSLESS, stop_ids=stops)
    assert found == answers_of(full, full, prompts, None, stop_ids=stops)[0]
    assert len({len(answer) for answer in found}) > 1


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("strictness", [0.0, 1.0])
def test_a_block_of_one_token_is_the_full_model(full, near, prompts, sampling, strictness):
    found, generator = answers_of(full, near, prompts, Refresh(1, math.inf, strictness), sampling)
    assert found == answers_of(full, full, prompts, None, sampling)[0]
    assert generator.tally.drafted == 0


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_a_refreshed_answer_by_hand(full, near, prompts, first_token):
    """Block by block, each behind a cache that the full model has filled on its own."""
    interval, (prompt,) = 4, prompts[3:4]
    found, _ = answers_of(full, near, [prompt], Refresh(interval, math.inf, 0.0), first=first_token)
    reader, writer = lay_out(full), lay_out(near)

    @jax.jit
    def read(tokens, lengths):
        hidden, cache = prefill(reader, tokens, lengths, 64)
        return logits_of(reader, jnp.take(hidden[0], lengths - 1, axis=0)), cache

    step = jax.jit(lambda token, cache: extend(writer, token, cache))

    def full_reads(tokens):
        return read(jnp.array([tokens + [0] * (64 - len(tokens))]), jnp.array([len(tokens)]))

    def best(logits):
        return [int(jnp.argmax(logits))]

    text = prompt + (best(full_reads(prompt)[0]) if first_token == "full" else [])
    while len(text) < len(prompt) + NEW:
        _, cache = full_reads(text[:-1])
        for _ in range(interval - 1):
            hidden, cache = step(jnp.array([text[-1:]]), cache)
            cache = dataclasses.replace(cache, lengths=cache.lengths + 1)
            text = text + best(logits_of(writer, hidden))
        text = text + best(full_reads(text)[0])
    assert found == [text[len(prompt) :][:NEW]]


def test_of_equal_logits_only_the_full_models_own_choice_is_lossless():
    """As rows of the vocabulary that nothing was trained on have them."""
    logits = jnp.array([[[0.0, 2.0, 1.0, 2.0]] * 3])
    limits = {name: jnp.asarray([value]) for name, value in GREEDY.limits().items()}
    for strictness, expected in ((1.0, 1), (0.99, 2)):
        kept, token = accepted(
            jnp.array([[1, 3]]), jnp.array([2]), logits[:, :2], logits,
            jax.random.split(jax.random.key(0), (1, 3)), limits, jnp.float32(strictness),
        )  # fmt: skip
        assert (int(kept[0]), int(token[0])) == (expected, 1)


def test_strictness_is_a_dial(full, near, prompts):
    kept, counted = [], compilations.copy()
    for strictness in (0.0, 0.01, 0.5, 1.0):
        _, generator = answers_of(full, near, prompts, Refresh(5, math.inf, strictness))
        kept.append(generator.tally.kept / generator.tally.drafted)
    assert kept[0] == 1.0
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4
    # With and without verification, whatever its strictness.
    assert (compilations - counted)["write_block"] <= 2


def test_where_the_decoder_is_unsure_the_full_model_writes(full, near, prompts):
    always, generator = answers_of(full, near, prompts, Refresh(5, 1e-9, 0.0))
    assert always == answers_of(full, full, prompts, None)[0]
    assert generator.tally.drafted == 0
    never, generator = answers_of(full, near, prompts, Refresh(5, 100.0, 0.0))
    assert never == answers_of(full, near, prompts, Refresh(5, math.inf, 0.0))[0]
    sometimes, some = answers_of(full, near, prompts, Refresh(5, 0.5, 0.0))
    assert 0 < some.tally.drafted < generator.tally.drafted
    assert sometimes != never


def test_ragged_batch_equals_row_by_row(full, near, prompts):
    for refresh in (LOSSLESS, Refresh(5, 0.5, 0.0)):
        together, _ = answers_of(full, near, prompts, refresh, WARM)
        generator = Generator(full, near, "full", (), 0, refresh=refresh)
        first = generator.generate(prompts[:1], WARM, NEW, BATCH)  # draws by its place
        assert first[0].tokens == together[0]
        greedy, _ = answers_of(full, near, prompts, refresh)
        alone = [answers_of(full, near, [prompt], refresh)[0][0] for prompt in prompts]
        assert greedy == alone


@pytest.mark.long
def test_verified_samples_are_distributed_as_the_full_models():
    """Of two tokens behind one prompt, over many seeds: chi-square against the exact chance."""
    shape = {"vocab_size": 7, "num_layers": 1}
    full, decoder = (
        jax.tree.map(lambda x: 0.35 * x, random_model(seed, **shape)) for seed in (0, 1)
    )
    rows, prompt, sampling = 4096, [1, 2, 3], Sampling(1.0, 5, 0.9, seed=11)
    generator = Generator(full, decoder, "full", (), 0, refresh=Refresh(3, math.inf, 1.0))
    answers = generator.generate([prompt] * rows, sampling, 3, rows)
    found = np.zeros((7, 7))
    for answer in answers:
        found[tuple(answer.tokens[1:])] += 1
    assert 0.2 < generator.tally.kept / generator.tally.drafted < 0.95
    expected = rows * chance_of_second_and_third(full, prompt, sampling)
    assert not found[expected == 0].any()
    likely = expected > 5
    assert likely.sum() > 10
    pooled = np.append(found[likely], found[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum())
    chi_square = np.sum((pooled - wanted) ** 2 / np.maximum(wanted, 1e-9))
    freedom = len(pooled) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations
    unverified = Generator(full, decoder, "full", (), 0, refresh=Refresh(3, math.inf, 0.0))
    other = np.zeros((7, 7))
    for answer in unverified.generate([prompt] * rows, sampling, 3, rows):
        other[tuple(answer.tokens[1:])] += 1
    assert np.sum((other - expected)[likely] ** 2 / expected[likely]) > 10 * freedom


def chance_of_second_and_third(full, prompt, sampling):
    """Of every pair of tokens, summed over the first."""
    model = lay_out(full)
    read = jax.jit(prefill, static_argnums=3)

    def next_token(texts):
        texts = jnp.array(texts)
        lengths = jnp.full(len(texts), texts.shape[1])
        hidden, _ = read(model, texts, lengths, texts.shape[1])
        return np.exp(log_probabilities(logits_of(model, hidden[:, -1]), **sampling.limits()))

    v = range(7)
    first = next_token([prompt])[0]
    second = next_token([[*prompt, a] for a in v])
    third = next_token([[*prompt, a, b] for a in v for b in v]).reshape(7, 7, 7)
    return np.einsum("a,ab,abc->bc", first, second, third)


@pytest.mark.long
def test_a_row_that_has_ended_writes_within_its_slots(full, near, prompts, monkeypatch):
    """However far it got before the others, which take blocks to their own ends."""
    lengths = []

    def spy(reader, writer, writing, ended, *others, **settings):
        found = write_block(reader, writer, writing, ended, *others, **settings)
        ahead = np.asarray(found[0].cache.lengths) + settings["interval"]
        lengths.append((ahead[ended].max(initial=0), found[0].cache.slots))
        return found

    monkeypatch.setattr(generation, "write_block", spy)
    monkeypatch.setattr(generation, "FIRST_ANSWER_SLOTS", 8)
    long = [
        prompts[1][k:] + prompts[1][:k] for k in range(BATCH)
    ]  # as long as their bucket, nearly
    answers_of(full, near, long, Refresh(12, math.inf, 1.0))
    assert any(ahead for ahead, _ in lengths)  # rows had ended while others went on
    assert all(ahead <= slots for ahead, slots in lengths)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 1.0, 0.0), "interval is 0, expected a whole number of at least 1"),
        ((2.5, 1.0, 0.0), "interval is 2.5, expected a whole number"),
        ((4, 0.0, 0.0), "entropy is 0.0, expected a number above 0"),
        ((4, math.nan, 0.0), "entropy is nan"),
        ((4, 1.0, 1.5), "strictness is 1.5, expected 0 to 1"),
        ((4, None, 0.0), "entropy is None, expected a number"),
        ((4, 1.0, "1"), "strictness is '1', expected 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_named(unchecked, settings, message):
    with pytest.raises(InputError, match=message):
        Refresh(*settings)


def test_an_interval_longer_than_the_answer_is_refused(full, near):
    generator = Generator(full, near, "full", (), 0, refresh=Refresh(9, math.inf, 0.0))
    with pytest.raises(InputError, match="interval is 9, but an answer has at most 8 tokens"):
        generator.generate([[1, 2]], GREEDY, 8, 1)


@pytest.fixture(scope="module")
def shallow(near):
    """The second of its two layers, and of it one kv head with its query heads."""
    c, layers = near.config, np.array([1])
    inner, heads = np.arange(c.intermediate_size)[None], np.array([[2, 3]])
    return cut(near, Kept(np.arange(c.hidden_size), inner, layers, heads[:, :1] // 2, heads))


@pytest.mark.long
@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_a_decoder_with_part_of_the_cache_writes_behind_it(full, shallow, prompts, first_token):
    """By the functions that training uses, token by token."""
    found, _ = answers_of(full, shallow, prompts[:2], None, first=first_token)
    extend_once = jax.jit(two_stage.extend)
    for prompt, answer in zip(prompts, found, strict=False):
        logits, cache = two_stage.prefill(
            full, jnp.array([prompt]), jnp.array([len(prompt)]), NEW + 1
        )
        cache = two_stage.handoff(cache, full.config, shallow.config, first_token)
        if first_token == "decoder":
            logits, cache = extend_once(shallow, jnp.array([prompt[-1:]]), cache)
            logits = logits[:, 0]
        for token in answer:
            assert token == int(jnp.argmax(logits[0]))
            logits, cache = extend_once(shallow, jnp.array([[token]]), cache)
            logits = logits[:, 0]


@pytest.mark.long
@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_the_full_model_reads_on_in_a_cache_of_its_own(full, near, shallow, prompts, first_token):
    expected, _ = answers_of(full, full, prompts, None)
    found, generator = answers_of(full, shallow, prompts, LOSSLESS, first=first_token)
    assert found == expected
    assert generator.tally.drafted
    found, _ = answers_of(full, shallow, prompts, Refresh(1), first=first_token)
    assert found == expected
    # Its own cache is never rounded, whatever the decoder's is kept in.
    for writer in (shallow, near):
        rounded = Generator(full, writer, first_token, (), 0, refresh=LOSSLESS, cache="int8")
        answers = rounded.generate(prompts, GREEDY, NEW, BATCH)
        assert [answer.tokens for answer in answers] == expected


@pytest.mark.long
def test_a_full_model_of_a_wider_dtype_reads_on_unrounded(full, near, prompts):
    narrow = dataclasses.replace(near, config=dataclasses.replace(near.config, dtype="bfloat16"))
    (expected,) = Generator(full, full, "full", (), 0).generate(prompts[5:], GREEDY, 40, 1)
    generator = Generator(full, narrow, "full", (), 0, refresh=LOSSLESS)
    (found,) = generator.generate(prompts[5:], GREEDY, 40, 1)
    assert found.tokens == expected.tokens


def test_an_answer_refreshed_in_part_of_the_cache_by_hand(full, shallow, prompts):
    """Each block behind what crosses of a cache that the full model has filled on its own."""
    interval, (prompt,) = 4, prompts[3:4]
    found, _ = answers_of(full, shallow, [prompt], Refresh(interval))
    reader = jax.jit(two_stage.prefill, static_argnames="capacity")
    extend_once = jax.jit(two_stage.extend)

    def full_reads(tokens):
        row = np.array([tokens + [0] * (64 - len(tokens))])
        logits, cache = reader(full, row, jnp.array([len(tokens)]), capacity=interval)
        return logits, two_stage.handoff(cache, full.config, shallow.config, "full")

    text = [*prompt, int(jnp.argmax(full_reads(prompt)[0]))]
    while len(text) < len(prompt) + NEW:
        _, cache = full_reads(text[:-1])
        for _ in range(interval - 1):
            logits, cache = extend_once(shallow, jnp.array([text[-1:]]), cache)
            text = [*text, int(jnp.argmax(logits))]
        text = [*text, int(jnp.argmax(full_reads(text)[0]))]
    assert found == [text[len(prompt) :][:NEW]]
