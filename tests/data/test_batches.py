"""Batches: fixed shapes, each example once an epoch, and a position that follows from the step."""

from collections import Counter

import jax
import numpy as np
import pytest

from overfill_jax.data.batches import Batches, evaluation_batches
from overfill_jax.data.instructions import Example
from overfill_jax.errors import InputError


def example(row, prompt, answer):
    """An example whose ids name their row: 1000 * row + place."""
    ids = 1000 * row + np.arange(prompt + answer, dtype=np.int32)
    return Example(row, ids[:prompt], ids[prompt:], "", "")


EXAMPLES = [example(i + 1, 3 + i % 5, 2 + i % 7) for i in range(10)]


def whole(batch, i):
    """Prompt and answer of one row, joined again."""
    prompt = batch.prompt[i, : batch.prompt_lengths[i]]
    return np.concatenate([prompt, batch.answer[i, : batch.answer_lengths[i]]])


def equal(one, other):
    return all(jax.tree.map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize("cutoff", [False, True])
def test_rows_hold_their_examples_and_zeros(cutoff):
    batches = Batches(EXAMPLES, 4, 0, cutoff)
    for step in range(20):
        batch = batches.at(step)
        for i, row in enumerate(batch.rows):
            one = EXAMPLES[row]
            assert np.array_equal(whole(batch, i), np.concatenate([one.prompt, one.answer]))
            assert not batch.prompt[i, batch.prompt_lengths[i] :].any()
            assert not batch.answer[i, batch.answer_lengths[i] :].any()


@pytest.mark.parametrize("cutoff", [False, True])
def test_shapes_never_change(cutoff):
    batches = Batches(EXAMPLES, 4, 0, cutoff)
    shapes = {(batches.at(i).prompt.shape, batches.at(i).answer.shape) for i in range(30)}
    prompt_slots = 16 if cutoff else 8  # 7 tokens; 10 with the part of an answer
    assert shapes == {((4, prompt_slots), (4, 8))}


def test_every_example_once_an_epoch_across_batch_borders():
    batches = Batches(EXAMPLES, 4, 0, cutoff=False)  # 4 does not divide 10
    rows = np.concatenate([batches.at(step).rows for step in range(10)])
    epochs = rows.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4  # each in an order of its own


@pytest.mark.parametrize("cutoff", [False, True])
def test_a_batch_follows_from_the_step_alone(cutoff):
    walked = Batches(EXAMPLES, 4, 7, cutoff)
    in_order = [walked.at(step) for step in range(25)]
    assert equal(Batches(EXAMPLES, 4, 7, cutoff).at(24), in_order[24])  # resumed
    assert equal(walked.at(3), in_order[3])  # gone back
    assert not equal(Batches(EXAMPLES, 4, 8, cutoff).at(3), in_order[3])


def test_batch_size_does_not_change_the_order_or_the_cutoffs():
    small, large = Batches(EXAMPLES, 2, 0, cutoff=True), Batches(EXAMPLES, 4, 0, cutoff=True)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), small.at(2), small.at(3))
    assert equal(joined, large.at(1))


def test_cutoff_is_uniform_and_leaves_two_tokens():
    examples = [example(1, 3, 6), example(2, 3, 1)]
    batches = Batches(examples, 2, 0, cutoff=True)
    left = Counter()
    for step in range(2000):
        batch = batches.at(step)
        lengths = dict(zip(batch.rows.tolist(), batch.answer_lengths.tolist(), strict=True))
        left[lengths[0]] += 1
        assert lengths[1] == 1  # nothing can move
    assert sorted(left) == [2, 3, 4, 5, 6]
    assert all(300 < count < 500 for count in left.values())


def test_fewer_examples_than_a_batch():
    with pytest.raises(InputError, match="found 10 examples, expected at least one batch of 11"):
        Batches(EXAMPLES, 11, 0, cutoff=False)
    Batches(EXAMPLES, 10, 0, cutoff=False).at(0)


def test_evaluation_batches_fill_up_with_empty_rows():
    batches = evaluation_batches(EXAMPLES, 4)
    assert len({(batch.prompt.shape, batch.answer.shape) for batch in batches}) == 1
    rows = np.concatenate([batch.rows for batch in batches]).tolist()
    assert rows == [*range(10), -1, -1]
    assert batches[-1].answer_lengths.tolist()[2:] == [0, 0]
    assert batches[-1].prompt_lengths.tolist()[2:] == [1, 1]  # prefill reads out a last token
    joined = np.concatenate([EXAMPLES[6].prompt, EXAMPLES[6].answer])
    assert np.array_equal(whole(batches[1], 2), joined)


def test_batch_goes_through_jit():
    batch = Batches(EXAMPLES, 4, 0, cutoff=False).at(0)
    lengths = jax.jit(lambda one: one.prompt_lengths + one.answer_lengths)(batch)
    assert lengths.tolist() == [len(whole(batch, i)) for i in range(4)]
