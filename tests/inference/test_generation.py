"""The two compiled functions and the class around them, against plain forward passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax import two_stage
from overfill_jax.errors import InputError
from overfill_jax.inference import generation
from overfill_jax.inference.buckets import bucket
from overfill_jax.inference.compiled import (
    CHUNK,
    NO_TOKEN,
    Pairing,
    compilations,
    read_prompts,
    write_chunk,
)
from overfill_jax.inference.generation import (
    SMALLEST_PROMPT_BUCKET,
    STREAMED_CHUNK,
    Generator,
)
from overfill_jax.inference.refresh import Refresh, Tally
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.serving_model import lay_out
from overfill_jax.model.transformer import hidden_states, unembed

NEW = 37  # more than two chunks
# Most tests run in these shapes, so that few functions are compiled for all of them.
SLOTS, CAPACITY, BATCH = 24, 48, 6
WARM = Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=3)
NO_STOP = np.zeros(0, np.int32)


def tokens_of(generator, prompts, sampling=GREEDY, batch_size=BATCH):
    return [answer.tokens for answer in generator.generate(prompts, sampling, NEW, batch_size)]


def padded(rows, slots):
    return np.array([row + [0] * (slots - len(row)) for row in rows], np.int32)


def start(reader, writer, prompts, first_token="full"):
    rows, limits = np.arange(len(prompts), dtype=np.int32), GREEDY.limits()
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    return read_prompts(
        lay_out(reader),
        padded(prompts, SLOTS),
        lengths,
        seed=np.uint32(0),
        rows=rows,
        limits=limits,
        how=Pairing(None, writer.config.dtype, first_token, reads_on=False),
        slots=SLOTS + CAPACITY,
    )


def write(writer, writing, ended=False, stop_ids=NO_STOP):
    ended = np.full(len(writing.token), ended)
    return write_chunk(lay_out(writer), writing, ended, GREEDY.limits(), stop_ids, np.int32(CHUNK))


@pytest.fixture(scope="module")
def alone(full):
    return Generator(full, full, "full", (), 0)


@pytest.fixture(scope="module")
def two_stages(full, decoder):
    return Generator(full, decoder, "full", (), 0)


def test_one_model_writes_the_argmax_of_its_uncached_forward(full, alone, prompts):
    answers = tokens_of(alone, prompts)
    assert len({token for answer in answers for token in answer}) > 10  # worth comparing
    whole = padded([p + a for p, a in zip(prompts, answers, strict=True)], SLOTS + NEW)
    positions = jnp.broadcast_to(jnp.arange(whole.shape[1]), whole.shape)
    hidden, _, _ = jax.jit(hidden_states)(full, whole, positions, jnp.ones_like(whole))
    best = np.argmax(unembed(full, hidden), -1)
    for prompt, answer, row in zip(prompts, answers, best, strict=True):
        np.testing.assert_array_equal(answer, row[len(prompt) - 1 :][:NEW])


@pytest.mark.parametrize("first_token", two_stage.FIRST_TOKEN)
def test_a_pair_writes_the_argmax_of_one_forward_behind_the_handoff(
    full, decoder, prompts, first_token
):
    answers = np.array(tokens_of(Generator(full, decoder, first_token, (), 0), prompts))
    assert len(np.unique(answers)) > 10
    lengths = jnp.array([len(prompt) for prompt in prompts])
    prompt_slots = jnp.asarray(padded(prompts, SLOTS))
    first_logits, cache = jax.jit(two_stage.prefill, static_argnums=3)(
        full, prompt_slots, lengths, NEW
    )
    cache = two_stage.handoff(cache, full.config, decoder.config, first_token)
    if first_token == "full":
        np.testing.assert_array_equal(answers[:, 0], jnp.argmax(first_logits, -1))
        read, expected = answers[:, :-1], answers[:, 1:]
    else:
        last = [[prompt[-1]] for prompt in prompts]
        read, expected = np.concatenate([last, answers[:, :-1]], 1), answers
    logits, _ = jax.jit(two_stage.extend)(decoder, read, cache)
    np.testing.assert_array_equal(jnp.argmax(logits, -1), expected)


@pytest.mark.parametrize("first_token", two_stage.FIRST_TOKEN)
@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_an_unpruned_decoder_is_the_full_model_to_the_last_token(
    full, alone, prompts, first_token, sampling
):
    copy = dataclasses.replace(full, params=jax.tree.map(jnp.copy, full.params))
    pair = Generator(full, copy, first_token, (), 0)
    assert tokens_of(pair, prompts, sampling) == tokens_of(alone, prompts, sampling)


@pytest.mark.parametrize("first_token", two_stage.FIRST_TOKEN)
def test_ragged_batch_equals_row_by_row(full, decoder, prompts, first_token):
    pair = Generator(full, decoder, first_token, (), 0)
    together = tokens_of(pair, prompts)
    assert together == [tokens_of(pair, [prompt])[0] for prompt in prompts]


def test_answers_come_in_order_and_do_not_depend_on_the_batches(two_stages, prompts):
    for sampling in (GREEDY, WARM):
        expected = tokens_of(two_stages, prompts, sampling)
        for size in (1, 3):
            assert tokens_of(two_stages, prompts, sampling, batch_size=size) == expected


def test_seeds(two_stages, prompts):
    same = [prompts[1]] * BATCH
    first = tokens_of(two_stages, same, WARM)
    assert first == tokens_of(two_stages, same, WARM)
    assert len(set(map(tuple, first))) == BATCH
    other = tokens_of(two_stages, same, dataclasses.replace(WARM, seed=4))
    assert not set(map(tuple, first)) & set(map(tuple, other))


@pytest.mark.parametrize("first_token", two_stage.FIRST_TOKEN)
def test_writing_never_changes_the_cache_of_the_prompt(full, decoder, prompts, first_token):
    writing = start(full, decoder, prompts, first_token)
    lengths = [len(prompt) for prompt in prompts]
    before = jax.tree.map(jnp.copy, writing.cache)  # donated next, so copied here
    after = write(decoder, writing)[0].cache
    assert writing.cache.key[0].values.is_deleted()  # there is never a second cache
    # Without its last token, where the decoder reads that itself.
    lengths = [length - (first_token == "decoder") for length in lengths]
    np.testing.assert_array_equal(before.lengths, lengths)
    np.testing.assert_array_equal(after.lengths, before.lengths + CHUNK)
    for old, new in zip(
        *(jax.tree.leaves((one.key, one.value)) for one in (before, after)), strict=True
    ):
        for row, length in enumerate(lengths):
            end = length + CHUNK
            np.testing.assert_array_equal(new[row, :, :length], old[row, :, :length])
            np.testing.assert_array_equal(new[row, :, end:], old[row, :, end:])
            assert (np.abs(new[row, :, length:end] - old[row, :, length:end]).sum((0, 2)) > 0).all()


def test_rows_end_on_their_own_and_the_loop_with_the_last(full, decoder, two_stages, prompts):
    free = tokens_of(two_stages, prompts)
    stop_ids = (free[0][3], free[1][20])
    stopping = Generator(full, decoder, "full", stop_ids, 0)
    answers = stopping.generate(prompts, GREEDY, NEW, BATCH)
    for answer, whole in zip(answers, free, strict=True):
        ends = [i for i, token in enumerate(whole) if token in stop_ids]
        assert answer.tokens == whole[: ends[0] if ends else None]
        assert answer.reason == ("stop" if ends else "length")
    assert len({len(answer.tokens) for answer in answers}) > 2


def test_the_loop_stops_in_mid_chunk_once_every_row_has_ended(full, decoder, prompts):
    same = [prompts[0]] * BATCH
    _, free = write(decoder, start(full, decoder, same))
    stop = int(free[0, 4])
    place = list(free[0]).index(stop)
    writing, tokens = write(decoder, start(full, decoder, same), stop_ids=np.array([stop, stop]))
    # The reader's token, those before the stop, the stop.
    assert writing.step.tolist() == [1 + place + 1] * BATCH
    assert list(tokens[0]) == [*free[0, : place + 1], *[NO_TOKEN] * (CHUNK - place - 1)]
    _, tokens = write(decoder, writing, ended=True)
    assert (np.asarray(tokens) == NO_TOKEN).all()


def test_rows_that_fill_a_batch_have_nothing_to_write(
    full, decoder, two_stages, prompts, monkeypatch
):
    five = prompts[:5]  # in a bucket of six
    free = tokens_of(two_stages, prompts)
    assert tokens_of(two_stages, five) == free[:5]
    firsts = tuple({answer[0] for answer in free[:5]})
    monkeypatch.setattr(generation, "write_chunk", None)  # not called: every row ends at once
    answers = Generator(full, decoder, "full", firsts, 0).generate(five, GREEDY, NEW, BATCH)
    assert [(answer.tokens, answer.reason) for answer in answers] == [([], "stop")] * 5


def test_stop_strings_cut_the_text_also_between_tokens(unchecked, full, decoder, prompts, pairs):
    pair = Generator(full, decoder, "full", (), 0, pairs)
    free = pair.generate(prompts, GREEDY, NEW, BATCH)
    text = free[0].text
    assert text == pairs.decode(free[0].tokens)
    stop = text[19:23]  # half a token, a token, half a token
    for answer, whole in zip(
        pair.generate(prompts, GREEDY, NEW, BATCH, stop=("nowhere", stop)), free, strict=True
    ):
        expected, found, _ = whole.text.partition(stop)
        assert answer.text == expected
        assert answer.tokens == whole.tokens[: len(expected) // 2]
        assert answer.reason == ("stop" if found else "length")
    # One string is not a list of letters, and an iterator is for every prompt.
    alone, listed, iterated = (
        pair.generate(prompts[:1] * 2, GREEDY, NEW, 1, s) for s in (stop, (stop,), iter((stop,)))
    )
    assert alone == listed == iterated
    assert alone[0].text == alone[1].text != text


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("first_token", two_stage.FIRST_TOKEN)
def test_streamed_pieces_join_to_the_answer(full, decoder, prompts, pairs, sampling, first_token):
    pair = Generator(full, decoder, first_token, (), 0, pairs)
    whole = pair.generate(prompts[:1], sampling, NEW, 1)[0].text
    for stop in ((), (whole[39:43],)):
        answer = pair.generate(prompts[:1], sampling, NEW, 1, stop=stop)[0]
        assert "".join(pair.stream(prompts[0], sampling, NEW, stop)) == answer.text
    pieces = pair.stream(prompts[0], sampling, NEW)
    assert next(pieces) == whole[:2]  # the first token, before the decode loop has run
    assert len(list(pieces)) == -(-(NEW - 1) // STREAMED_CHUNK)


def test_compilations_are_bounded_by_the_buckets(full, decoder):
    pair = Generator(full, decoder, "full", (), 0)
    lengths = range(1, 25)
    counted, real = compilations.copy(), _compiled()
    for length in lengths:
        # Capacities of 77 to 81 share a bucket; the way of sampling, the seed and the number of
        # steps that are left are no reason to compile.
        sampling = Sampling(length / 50, length % 5, 0.5 + length / 100, seed=length)
        pair.generate([[1] * length], sampling, 77 + length % 5, 3)
    buckets = {bucket(length, SMALLEST_PROMPT_BUCKET) for length in lengths}
    assert len(buckets) == 2
    assert compilations - counted == dict.fromkeys(("read_prompts", "write_chunk"), len(buckets))
    list(pair.stream([1] * 20, WARM, 77))
    for rows in range(2, 8):  # in batches of 3, 2 and 1
        pair.generate([[1] * 20] * rows, WARM, 77, 3)
    assert compilations - counted == dict.fromkeys(
        ("read_prompts", "write_chunk"), len(buckets) + 2
    )
    assert _compiled() - real == 2 * (len(buckets) + 2)  # what is counted is what happens


@pytest.mark.long
@pytest.mark.parametrize("refresh", [None, Refresh(4, strictness=1.0)])
def test_after_warming_up_nothing_is_compiled(full, decoder, pairs, compiled, monkeypatch, refresh):
    monkeypatch.setattr(generation, "FIRST_ANSWER_SLOTS", 20)  # so that caches grow
    jax.clear_caches()
    pair = Generator(full, decoder, "full", (7,), 0, pairs, refresh=refresh)
    compiled.clear()
    pair.warm_up((16, 9), (1, 2), NEW)
    assert pair.tally == Tally()
    # Batches of two sizes, whose caches grow once, or twice where blocks are written.
    assert [compiled.count(f"jit({name})") for name in ("read_prompts", "_pad")] in ([2, 2], [2, 4])
    compiled.clear()
    prompts = [[1 + length] * length for length in (3, 15, 16)]
    for sampling in (GREEDY, WARM):
        pair.generate(prompts, sampling, NEW, 2)
        list(pair.stream(prompts[1], sampling, NEW))
    assert compiled == []


def test_what_cannot_be_warmed_up_is_named(unchecked, two_stages):
    for lengths, sizes, message in (
        ((), (1,), r"warm_up: prompt_lengths is \(\), expected positive numbers"),
        (16, (1,), "warm_up: prompt_lengths is 16, expected positive numbers"),
        (np.array(16), (1,), r"prompt_lengths is array\(16\), expected positive numbers"),
        (np.array([4, 0]), (1,), r"prompt_lengths is \[.*4.*0.*\], expected positive"),
        ((4,), (n for n in (0, 1)), r"batch_sizes is \[0, 1\], expected positive"),
        ((4,), (1.5,), r"batch_sizes is \[1.5\], expected positive"),
        ((4, 100), (1,), "warm_up: 100 tokens and 37 new ones make 137, the model's limit is 128"),
    ):
        with pytest.raises(InputError, match=message):
            two_stages.warm_up(lengths, sizes, NEW)


def test_slots_that_are_added_as_an_answer_grows_change_nothing(two_stages, prompts, monkeypatch):
    expected = tokens_of(two_stages, prompts)
    seen = []
    monkeypatch.setattr(generation, "FIRST_ANSWER_SLOTS", 10)

    def spy(writer, writing, *others):
        seen.append(writing.cache.slots - SLOTS)
        return write_chunk(writer, writing, *others)

    monkeypatch.setattr(generation, "write_chunk", spy)
    assert tokens_of(two_stages, prompts) == expected
    assert seen == [20, 40, 40]  # for 17, 33 and 37 tokens


def _compiled() -> int:
    return read_prompts._cache_size() + write_chunk._cache_size()


def test_compute_dtype_is_the_configs(full, decoder, prompts):
    narrow = [
        dataclasses.replace(m, config=dataclasses.replace(m.config, dtype="bfloat16"))
        for m in (full, decoder)
    ]
    writing = start(*narrow, prompts)
    assert writing.cache.key[0].values.dtype == jnp.bfloat16
    # Weights that are cast before the loop give what weights cast inside it give.
    first, expected = np.array(writing.token), write(narrow[1], writing)[1]
    answers = np.array(tokens_of(Generator(*narrow, "full", (), 0), prompts))
    np.testing.assert_array_equal(answers[:, 0], first)
    np.testing.assert_array_equal(answers[:, 1 : 1 + CHUNK], expected)


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        ([], 4, "prompt 1: found no tokens"),
        ([1, 41], 4, "prompt 1: found token 41, expected 0 to 40"),
        ([1, -1], 4, "prompt 1: found token -1, expected 0 to 40"),
        ([1] * 100, 29, "prompt 1: 100 tokens and 29 new ones make 129, the model's limit is 128"),
        ([1], 0, "max_new_tokens is 0, expected at least 1"),
    ],
)
def test_prompts_that_cannot_be_answered_are_named(two_stages, prompt, new, message):
    with pytest.raises(InputError, match=message):
        two_stages.generate([[1], prompt], GREEDY, new, 2)
    with pytest.raises(InputError, match=message.replace("prompt 1", "prompt")):
        list(two_stages.stream(prompt, GREEDY, new))


def test_a_prompt_may_fill_the_model_to_its_limit(two_stages):
    two_stages.check_prompt([1] * 91, NEW, "prompt")


def test_no_prompts_no_answers(two_stages):
    assert two_stages.generate([], GREEDY, 4, 2) == []


def test_settings_that_cannot_work_are_named(full, decoder, two_stages, pairs):
    with pytest.raises(InputError, match="no tokenizer to find it with"):
        two_stages.generate([[1]], GREEDY, 4, 1, stop="x")
    with pytest.raises(InputError, match="stop: found an empty string"):
        Generator(full, full, "full", (), 0, pairs).generate([[1]], GREEDY, 4, 1, stop=("",))
    with pytest.raises(InputError, match="batch_size is 0"):
        two_stages.generate([[1]], GREEDY, 4, 0)
    with pytest.raises(InputError, match="first_token: found 'both'"):
        Generator(full, decoder, "both", (), 0)
    fewer_heads = dataclasses.replace(decoder.config, num_kv_heads=1)
    with pytest.raises(InputError, match="num_kv_heads is 1 in the decoder"):
        Generator(full, dataclasses.replace(decoder, config=fewer_heads), "full", (), 0)
