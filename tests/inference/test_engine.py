"""Many requests at once: each gets the answer that it would get alone, whatever the others do."""

import dataclasses

import jax
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.inference import engine as engine_module
from overfill_jax.inference import generation as generation_module
from overfill_jax.inference.compiled import CHUNK, compilations
from overfill_jax.inference.engine import Engine, QueueFull, Room
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from tests.builders import CONFIG

ROOM = Room(slots=3, length=64, queue=12, chunk=8)
WARM = Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=3)


@pytest.fixture(autouse=True)
def one_bucket(monkeypatch):
    """Of the generator, whose buckets are not at stake: fewer programs to compile."""
    monkeypatch.setattr(generation_module, "SMALLEST_PROMPT_BUCKET", 64)
    monkeypatch.setattr(generation_module, "answer_slots", lambda written, most: 64)


def prompt_of(length, seed=0):
    return np.random.default_rng(seed + 100 * length).integers(0, CONFIG.vocab_size, length)


def requests_of(count):
    """Ragged prompts and answers, every way of sampling."""
    rng = np.random.default_rng(0)
    for row in range(count):
        sampling = Sampling(
            (0.0, 0.7, 1.5)[row % 3], (0, 5)[row % 2], (1.0, 0.8)[row // 2 % 2], row
        )
        yield prompt_of(int(rng.integers(1, 36)), row), sampling, int(rng.integers(1, 28))


def make_engine(
    full, decoder, tokenizer=None, first_token="full", room=ROOM, stop_ids=(), refresh=None
):
    return Engine(full, decoder, first_token, stop_ids, tokenizer, "", room, refresh)


def alone(full, decoder, prompt, sampling, most, stop=(), tokenizer=None, **settings):
    settings = {"first_token": "full", "stop_ids": ()} | settings
    generator = Generator(full, decoder, pad_id=0, tokenizer=tokenizer, **settings)
    return generator.generate([prompt], sampling, most, 1, stop)[0]


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_answers_are_those_of_single_requests(full, decoder, pairs, first_token):
    asked = list(requests_of(12))
    settings = {"first_token": first_token, "stop_ids": (7, 12)}
    engine = make_engine(full, decoder, pairs, **settings)
    found = []
    for turn in range(40):  # they arrive in the midst of others
        if turn % 2 == 0 and turn // 2 < len(asked):
            found.append(engine.submit(*asked[turn // 2]))
        engine.step()
    engine.run()
    expected = [alone(full, decoder, *one, tokenizer=pairs, **settings) for one in asked]
    assert [request.answer() for request in found] == expected
    assert {answer.reason for answer in expected} == {"stop", "length"}
    assert np.asarray(engine._slots.writing.cache.lengths).max() < ROOM.length


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_short_prompts_are_read_together_and_answered_alone(
    full, decoder, read_at_once, first_token
):
    engine = make_engine(
        full, decoder, first_token=first_token, room=dataclasses.replace(ROOM, chunk=96)
    )
    asked = [
        (prompt_of(length, row), Sampling((0.0, 1.5)[row % 2], row, 0.9, row), 3 + row)
        for row, length in enumerate((5, 14, 20, 17, 3, 30, 9, 9, 2, 7, 7))
    ]
    found = [engine.submit(*one) for one in asked]
    given_up = engine.submit(prompt_of(4), WARM, 8)
    engine.step()
    assert read_at_once == [(4, 16)]
    read = [row for row, request in enumerate(found) if request.stage == "writing"]
    assert read == [0, 1, 4, 6]
    for request in (given_up, found[3], found[6]):  # the last of which waits for a slot
        request.cancel()
    engine.run()
    assert read_at_once == [(4, 16), (1, 24), (1, 32), (4, 16)]
    for row, (request, one) in enumerate(zip(found, asked, strict=True)):
        if row not in (3, 6):
            assert request.answer() == alone(full, decoder, *one, first_token=first_token)


def test_a_prompt_is_overtaken_by_three_for_each_ahead_of_it_and_read_in_its_turn(
    full, decoder, read_at_once
):
    room = dataclasses.replace(ROOM, slots=1, queue=40, chunk=64)
    engine = make_engine(full, decoder, room=room)
    ahead = [engine.submit(prompt_of(9, row), GREEDY, 2) for row in range(2)]
    other = engine.submit(prompt_of(40), GREEDY, 2)
    behind = [engine.submit(prompt_of(9, row), GREEDY, 2) for row in range(20)]
    while other.stage == "queued":
        engine.step()
    assert read_at_once == [(4, 16), (1, 48)]
    assert all(request.is_over for request in (*ahead, *behind[:2]))
    assert all(request.stage == "queued" for request in behind[2:])


def test_prompts_that_exceed_a_chunk_together_are_read_one_by_one(full, decoder, read_at_once):
    engine = make_engine(full, decoder, room=dataclasses.replace(ROOM, slots=4, chunk=95))
    for _ in range(5):
        engine.submit(prompt_of(20), GREEDY, 2)
    engine.run()
    assert read_at_once == [(1, 24)] * 5


@pytest.mark.long
def test_one_model_and_integers_in_the_cache(full):
    asked = list(requests_of(4))
    for cache in ("", "int8"):
        engine = Engine(full, full, "full", (), None, cache, ROOM)
        found = [engine.submit(*one) for one in asked]
        engine.run()
        expected = [alone(full, full, *one, cache=cache) for one in asked]
        assert [request.answer() for request in found] == expected


REFRESHES = {
    "every 4": Refresh(4),
    "the full model": Refresh(1),
    "unsure": Refresh(6, entropy=1.0),
    "verified": Refresh(5, strictness=1.0),
}


@pytest.mark.parametrize(
    ("name", "first_token"),
    [
        ("every 4", "full"),
        ("the full model", "full"),
        pytest.param("unsure", "full", marks=pytest.mark.long),
        ("verified", "full"),
        pytest.param("verified", "decoder", marks=pytest.mark.long),
    ],
)
def test_refreshed_answers_are_those_of_single_requests(full, decoder, pairs, name, first_token):
    settings = {"first_token": first_token, "refresh": REFRESHES[name]}
    engine = make_engine(full, decoder, pairs, **settings, stop_ids=(7, 12))
    asked = [(p, s, max(most, 6)) for p, s, most in requests_of(6)]
    found = []
    for one in asked:
        found.append(engine.submit(*one))
        engine.step()
    engine.run()
    for request, one in zip(found, asked, strict=True):
        alone_answer = alone(full, decoder, *one, tokenizer=pairs, stop_ids=(7, 12), **settings)
        assert request.answer() == alone_answer
    assert engine.tally.blocks > 6
    assert (engine.tally.drafted > 0) == (name != "the full model")
    assert (engine.tally.kept < engine.tally.drafted) == (name == "verified")


@pytest.mark.long
def test_a_shallow_decoder_is_refreshed_from_a_cache_of_the_full_models_own(full):
    heads = np.array([[2, 3]])
    inner = np.arange(20)[None]
    shallow = cut(full, Kept(np.arange(14), inner, np.array([1]), heads[:, :1] // 2, heads))
    asked = [(p, s, max(most, 4)) for p, s, most in requests_of(4)]
    for refresh in (Refresh(4), Refresh(3, strictness=1.0)):
        engine = make_engine(full, shallow, refresh=refresh)
        found = [engine.submit(*one) for one in asked]
        engine.run()
        expected = [alone(full, shallow, *one, refresh=refresh) for one in asked]
        assert [request.answer() for request in found] == expected


@pytest.mark.long
@pytest.mark.parametrize("refresh", [None, Refresh(4)])
def test_only_slots_that_may_be_filled_are_read(full, decoder, monkeypatch, refresh):
    monkeypatch.setattr(engine_module, "SMALLEST_SEEN", 8)
    engine = make_engine(full, decoder, room=dataclasses.replace(ROOM, length=100), refresh=refresh)
    writing = engine._slots.writing
    # Where anything of it were read, even with a weight of 0, it would spoil the answer.
    cached = writing.cache.key, writing.cache.value
    key, value = jax.tree.map(lambda x: x.at[:, :, 64:].set(np.nan), cached)
    spoiled = dataclasses.replace(writing.cache, key=key, value=value)
    engine._slots.writing = dataclasses.replace(writing, cache=spoiled)
    asked = [(p, s, max(most, 4)) for p, s, most in requests_of(9)]
    before = compilations.copy()
    found = [engine.submit(*one) for one in asked]
    engine.run()
    written = compilations - before
    assert (
        2 <= written["write_block" if refresh else "write_chunk"] <= 8
    )  # 1 and 3 rows of 8 to 64 slots
    expected = [alone(full, decoder, *one, refresh=refresh) for one in asked]
    assert [request.answer() for request in found] == expected


def test_stop_strings_are_each_requests_own(full, decoder, pairs):
    prompt, whole = prompt_of(9), alone(full, decoder, prompt_of(9), GREEDY, 24, tokenizer=pairs)
    engine = make_engine(full, decoder, pairs)
    stops = ("nowhere", whole.text[11:15], (whole.text[21:23], "nowhere"))
    found = [engine.submit(prompt, GREEDY, 24, stop) for stop in stops]
    engine.run()
    for request, stop in zip(found, stops, strict=True):
        assert request.answer() == alone(full, decoder, prompt, GREEDY, 24, stop, pairs)
    assert [request.answer().reason for request in found] == ["length", "stop", "stop"]


def test_streamed_pieces_join_to_the_answer(full, decoder, pairs):
    engine = make_engine(full, decoder, pairs)
    first, other = (engine.submit(prompt_of(n), WARM, 2 * CHUNK + 2) for n in (4, 30))
    pieces = list(engine.stream(first))
    assert "".join(pieces) == first.answer().text
    assert len(pieces) > 3
    assert other.written  # grew beside it
    assert "".join(engine.stream(other)) == other.answer().text
    other_engine = make_engine(full, decoder, pairs)
    given_up = other_engine.submit(prompt_of(4), WARM, 8)
    given_up.cancel()
    with pytest.raises(InputError, match="cancelled while queued"):
        list(other_engine.stream(given_up))


def test_cancelled_requests_leave_no_trace_on_the_others(full, decoder):
    engine = make_engine(full, decoder)
    asked = list(requests_of(4))
    first = engine.submit(prompt_of(5), WARM, 40)
    engine.step()
    long = engine.submit(prompt_of(36), WARM, 20)
    queued, *others = (engine.submit(*one) for one in asked)
    engine.step()
    assert [r.stage for r in (first, long, queued)] == ["writing", "reading", "queued"]
    first.cancel(), long.cancel(), queued.cancel(), queued.cancel()
    engine.run()
    for request, message in (
        (first, "request 0: found no answer .cancelled while writing, 2 tokens written"),
        (long, "request 1: found no answer .cancelled while reading, 0 tokens written"),
        (queued, "request 2: found no answer .cancelled while queued, 0 tokens written"),
    ):
        with pytest.raises(InputError, match=message):
            request.answer()
    answers = [request.answer() for request in others]
    assert answers == [alone(full, decoder, *one) for one in asked[1:]]
    others[0].cancel()  # too late to change anything
    assert others[0].answer() == answers[0]


def test_a_cancelled_answer_frees_its_slot_and_a_queued_one_its_place(full, decoder):
    engine = make_engine(full, decoder, room=dataclasses.replace(ROOM, slots=1, queue=1))
    first = engine.submit(prompt_of(5), GREEDY, 50)
    engine.step()
    waiting = engine.submit(prompt_of(6), GREEDY, 4)
    engine.step()  # it is read ahead, and waits for the slot
    assert waiting.written == 1
    queued = engine.submit(prompt_of(6), GREEDY, 4)
    with pytest.raises(QueueFull, match="request 3: 1 requests wait already, the queue holds 1"):
        engine.submit(prompt_of(6), GREEDY, 4)
    queued.cancel()
    last = engine.submit(prompt_of(7), GREEDY, 4)
    first.cancel()
    engine.run()
    assert waiting.answer() == alone(full, decoder, prompt_of(6), GREEDY, 4)
    assert last.answer() == alone(full, decoder, prompt_of(7), GREEDY, 4)
    assert not engine.busy


@pytest.mark.parametrize(
    ("prompt", "new", "stop", "message"),
    [
        ([], 4, (), "request 1: prompt: found no tokens"),
        ([1, 41], 4, (), "request 1: prompt: found token 41, expected 0 to 40"),
        (np.array([1.5]), 4, (), "request 1: found .+, expected a row of tokens"),
        ("Who?", 4, (), "request 1: found str, expected a row of tokens"),
        ([1] * 41, 24, (), "41 tokens and 24 new ones make 65, a slot of the engine holds 64"),
        ([1] * 100, 29, (), "make 129, the model's limit is 128"),
        ([1], 0, (), "request 1: max_new_tokens is 0"),
        ([1], 8.0, (), "request 1: max_new_tokens is 8.0, expected a whole number"),
        ([1], 4, "", "request 1: stop: found an empty string"),
        ([1], 4, ("x", 5), "request 1: stop: found 5, expected strings"),
        ([1], 4, None, "request 1: stop: found None, expected strings"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_bad_request_is_refused_and_the_others_go_on(
    full, decoder, pairs, prompt, new, stop, message
):
    engine = make_engine(full, decoder, pairs)
    good = engine.submit(prompt_of(5), WARM, 8)
    engine.step()
    with pytest.raises(InputError, match=message):
        engine.submit(prompt, WARM, new, (stop,) if stop == "" else stop)
    fits = engine.submit([1] * 40, WARM, 24)
    with pytest.raises(InputError, match=r"found no answer \(writing, 1 tokens"):
        good.answer()
    engine.run()
    assert good.answer() == alone(full, decoder, prompt_of(5), WARM, 8, tokenizer=pairs)
    assert fits.answer() == alone(full, decoder, [1] * 40, WARM, 24, tokenizer=pairs)


@pytest.mark.usefixtures("unchecked")
def test_a_way_of_sampling_and_an_answer_that_a_block_reaches_are_asked_for(full, decoder):
    with pytest.raises(InputError, match="request 0: sampling: found None, expected a Sampling"):
        make_engine(full, decoder).submit([1], None, 4)
    with pytest.raises(InputError, match="request 0: refresh: interval is 8, but an answer has"):
        make_engine(full, decoder, refresh=Refresh(8)).submit([1], GREEDY, 7)


def test_settings_that_cannot_work_are_named(full, decoder):
    with pytest.raises(InputError, match="no tokenizer to find it with"):
        make_engine(full, decoder).submit([1], GREEDY, 4, "x")
    for name in ("slots", "length", "queue", "chunk"):
        with pytest.raises(InputError, match=f"Room: {name} is 0, expected at least 1"):
            dataclasses.replace(ROOM, **{name: 0})
    with pytest.raises(InputError, match="first_token: found 'both'"):
        make_engine(full, decoder, first_token="both")


def test_a_long_prompt_does_not_stop_the_answers(full, decoder):
    engine = make_engine(full, decoder)
    running = [engine.submit(prompt_of(3, seed), GREEDY, 40) for seed in range(2)]
    while not all(request.written for request in running):
        engine.step()
    long = engine.submit(prompt_of(40), GREEDY, 4)
    turns = 0
    while long.written == 0:
        before = [request.written for request in running]
        engine.step()
        # Token by token, so that the long one is not kept waiting either.
        assert [request.written for request in running] == [n + 1 for n in before]
        turns += 1
    assert turns == 40 // ROOM.chunk
    before = running[0].written
    engine.step()
    assert running[0].written == before + CHUNK  # nobody waits any more


def test_ended_answers_leave_no_arrays_behind(full, decoder):
    engine = make_engine(full, decoder)

    def answer_some():
        for one in requests_of(6):
            engine.submit(*one)
        engine.step()
        engine.submit(prompt_of(20), GREEDY, 4).cancel()
        engine.run()
        return len(jax.live_arrays())

    assert answer_some() == answer_some()
