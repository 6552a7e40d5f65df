"""The slots have as many rows as their answers need, which no answer shows."""

import dataclasses

import jax
import pytest

from overfill_jax.errors import InputError
from overfill_jax.inference import engine as engine_module
from overfill_jax.inference import engine_steps
from overfill_jax.inference.compiled import write_chunk
from overfill_jax.inference.engine import Engine, Room
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.slots import row_counts
from tests.inference.test_engine import alone, prompt_of

ROOM = Room(slots=6, length=64, queue=12, chunk=8)
WARM = Sampling(temperature=1.0, top_k=0, top_p=0.9, seed=5)


@pytest.fixture
def written(monkeypatch):
    """How many rows each call writes."""
    calls = []

    def noted(writer, writing, ended, *others, **settings):
        calls.append(len(ended))
        return write_chunk(writer, writing, ended, *others, **settings)

    monkeypatch.setattr(engine_module, "write_chunk", noted)
    return calls


def make_engine(full, decoder, room=ROOM):
    return Engine(full, decoder, "full", (), None, "", room)


@pytest.mark.parametrize(
    ("slots", "parts", "counts"),
    [
        (1, 1, (1,)),
        (3, 1, (1, 3)),
        (4, 1, (1, 4)),
        (32, 1, (1, 4, 16, 32)),
        (64, 2, (2, 8, 32, 64)),
        (6, 8, (6,)),
    ],
)
def test_few_numbers_of_rows(slots, parts, counts):
    assert row_counts(slots, parts) == counts


def test_rows_come_and_go_with_the_answers(full, decoder, written):
    engine = make_engine(full, decoder)
    # The first ends last and the second first, so that rows change places.
    asked = [(prompt_of(4, n), (GREEDY, WARM)[n % 2], most) for n, most in enumerate([56, 8, 40])]
    found = [engine.submit(*one) for one in asked]
    while not all(request.written > 1 for request in found):
        engine.step()
    asked += [(prompt_of(3, n), WARM, 5) for n in range(4)]
    found += [engine.submit(*one) for one in asked[3:]]
    engine.run()
    assert [request.answer() for request in found] == [alone(full, decoder, *one) for one in asked]
    sizes = [now for now, before in zip(written, [0, *written], strict=False) if now != before]
    assert sizes == [4, 6, 4, 1]
    assert engine._slots.rows == 1  # of an engine that has nothing to do, too


def test_a_row_by_itself_costs_one_row(full, decoder, written):
    engine = make_engine(full, decoder)
    for _ in range(2):
        found = [engine.submit(prompt_of(4), GREEDY, 40) for _ in range(5)]
        while engine._slots.rows < ROOM.slots:
            engine.step()
        for request in found[1:]:
            request.cancel()
        written.clear()
        engine.run()
        assert set(written[1:]) == {1}
        assert found[0].answer() == alone(full, decoder, prompt_of(4), GREEDY, 40)


def test_arrays_of_another_number_of_rows_are_given_up(full, decoder):
    slots = make_engine(full, decoder)._slots
    for coming in (6, 1):
        before = jax.tree.leaves(slots.writing)
        slots.fit(coming)
        assert all(array.is_deleted() for array in before)


def test_there_are_rows_for_prompts_that_wait(full, decoder, written):
    engine = make_engine(full, decoder, dataclasses.replace(ROOM, slots=4))
    for number in range(12):
        engine.submit(prompt_of(4, number), GREEDY, 3)
    engine.run()
    assert set(written[:-3]) == {4}


def test_few_rows_suffice_for_few_requests_behind_a_burst(full, decoder, written):
    engine = make_engine(full, decoder)
    for number in range(8):
        engine.submit(prompt_of(4, number), GREEDY, 2)
    engine.run()
    written.clear()
    # Whose prompts take longer to read than their answers to be written, so that one always waits.
    for number in range(6):
        engine.submit(prompt_of(30, number), GREEDY, 3)
        engine.step()
        engine.step()
    assert set(written) == {4}


def test_all_rows_are_there_once_so_that_memory_that_lacks_shows(full, decoder, monkeypatch):
    made = []
    rearrange = engine_steps.rearrange

    def noted(writing, order):
        made.append((len(writing.token), len(order)))
        return rearrange(writing, order)

    monkeypatch.setattr(engine_steps, "rearrange", noted)
    make_engine(full, decoder)
    assert made == [(6, 4), (4, 1)]


def test_limits_go_with_the_answers_and_free_rows_draw_nothing(full, decoder):
    engine = make_engine(full, decoder)
    slots = engine._slots
    first = engine.submit(prompt_of(4), WARM, 30)
    engine.step()
    last = engine.submit(prompt_of(5), WARM, 55)
    engine.step()
    two = {name: [value] * 2 for name, value in WARM.limits().items()}
    free = {name: [value] * 2 for name, value in GREEDY.limits().items()}
    assert {name: values.tolist() for name, values in slots.limits.items()} == {
        name: two[name] + free[name] for name in two
    }
    while not first.is_over:
        engine.step()
    assert slots.requests == [last]
    assert {name: values.tolist() for name, values in slots.limits.items()} == {
        name: [value] for name, value in WARM.limits().items()
    }
    last.cancel()
    engine.run()
    assert {name: values.tolist() for name, values in slots.limits.items()} == {
        name: [value] for name, value in GREEDY.limits().items()
    }


def test_warming_up_is_for_an_engine_without_requests(full, decoder):
    engine = make_engine(full, decoder)
    engine.submit(prompt_of(4), GREEDY, 4)
    with pytest.raises(InputError, match="warm_up: found requests under way, expected to be"):
        engine.warm_up()
