"""Packing: nothing overflows, nothing is lost, rows are full, and a split follows the data."""

import time

import numpy as np
import pytest

from overfill_jax.data import packing
from overfill_jax.data.packing import RowShape, choose_shape, longest_shape, pack, packed_shape
from overfill_jax.errors import InputError

SHAPE = RowShape(768, 1280, packed=True)


def lengths(count, seed=0, prompt=80.0, answer=130.0):
    """Lengths with the long tails of real ones, all of which fit SHAPE."""
    rng = np.random.default_rng(seed)
    drawn = (rng.gamma(4.0, mean / 4, count) for mean in (prompt, answer))
    return tuple(np.clip(one.astype(np.int64), 1, 768) for one in drawn)


def check(prompts, answers, shape):
    rows = pack(prompts, answers, shape)
    assert sorted(set(rows.tolist())) == list(range(rows.max() + 1))  # no row is empty
    assert np.bincount(rows, prompts).max() <= shape.prompt_slots
    assert np.bincount(rows, answers).max() <= shape.answer_slots
    return rows


@pytest.mark.parametrize("count", [1, 2, 37, 1000, 9000])
def test_no_row_overflows(count):
    check(*lengths(count), SHAPE)


def test_examples_that_fill_a_row_alone():
    full = np.full(700, 768), np.full(700, 1280)
    assert check(*full, SHAPE).tolist() == pack(*full, SHAPE).tolist()
    assert len(set(pack(*full, SHAPE).tolist())) == 700
    # Each fits in only one stream beside another, so there are far more rows than tokens need.
    check(np.array([768, 1] * 300), np.array([1, 1280] * 300), SHAPE)


def test_rows_are_full_in_both_streams():
    prompts, answers = lengths(20_000)
    shape = packed_shape(prompts, answers, False, 2048, 0)
    rows = check(prompts, answers, shape)
    assert (prompts + answers).sum() / (rows.max() + 1) / 2048 > 0.95


def test_packing_is_deterministic_and_follows_the_order():
    prompts, answers = lengths(3000)
    assert np.array_equal(pack(prompts, answers, SHAPE), pack(prompts, answers, SHAPE))
    moved = np.roll(np.arange(3000), 1)
    assert not np.array_equal(
        pack(prompts, answers, SHAPE)[moved], pack(prompts[moved], answers[moved], SHAPE)
    )


def test_windows_keep_neighbours_together(monkeypatch):
    monkeypatch.setattr(packing, "WINDOW_ROWS", 16)
    prompts, answers = lengths(6000)
    rows = check(prompts, answers, SHAPE)
    spread = [np.ptp(np.nonzero(rows == row)[0]) for row in range(rows.max() + 1)]
    assert max(spread) < 200


def test_one_example_a_row():
    prompts, answers = lengths(50)
    assert pack(prompts, answers, longest_shape(prompts, answers, False)).tolist() == [*range(50)]


def test_longest_shape():
    prompts, answers = np.array([3, 9, 2]), np.array([8, 1, 20])
    assert longest_shape(prompts, answers, False) == RowShape(16, 24, packed=False)
    assert longest_shape(prompts, answers, True) == RowShape(24, 24, packed=False)  # 2 + 18


def test_split_follows_the_data():
    prompts, answers = lengths(5000)
    assert packed_shape(prompts, answers, False, 2048, 0) == SHAPE
    assert packed_shape(prompts, answers, True, 2048, 0).prompt_slots == 1408  # 80 + 65 of 210
    assert packed_shape(answers, prompts, False, 2048, 0).prompt_slots == 1280
    assert packed_shape(prompts // 20 + 1, answers // 20 + 1, False, 64, 0).prompt_slots % 8 == 0
    assert choose_shape(prompts, answers, False, True, 2048, 512) == RowShape(512, 1536, True)
    assert not choose_shape(prompts, answers, False, False, 2048, 512).packed


def test_split_loses_no_examples_to_save_slots():
    prompts, answers = lengths(1000)
    long = np.arange(1000) % 10 == 0
    prompts = np.where(long, 1500, prompts)
    assert packed_shape(prompts, answers, False, 2048, 0).prompt_slots >= 1500
    # One that is unusually long does not decide about all the others.
    prompts = np.append(lengths(1000)[0], 1500)
    assert packed_shape(prompts, np.append(answers, 1), False, 2048, 0) == SHAPE


@pytest.mark.parametrize(
    ("sequence_length", "prompt_slots", "message"),
    [
        (8, 0, r"^train\.sequence_length: found 8, expected at least 16"),
        (2048, 2048, r"^train\.prompt_slots: found 2048, expected 0 or a part of the 2048"),
        (2048, -1, r"^train\.prompt_slots: found -1"),
        (
            64,
            0,
            r"^train\.sequence_length: found 64, and no example fits; the shortest has 150 tokens",
        ),
    ],
)
def test_lengths_that_do_not_do(sequence_length, prompt_slots, message):
    with pytest.raises(InputError, match=message):
        packed_shape(np.array([80]), np.array([70]), False, sequence_length, prompt_slots)


def test_a_hundred_thousand_examples_take_no_time():
    prompts, answers = lengths(100_000)
    start = time.perf_counter()
    pack(prompts, answers, SHAPE)
    assert time.perf_counter() - start < 5  # about 0.15 s
