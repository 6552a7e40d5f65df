"""Layout: every example whole in slots of its own, with its segments and positions."""

import jax
import numpy as np

from overfill_jax.data.batches import evaluation_batches, lay_out
from overfill_jax.data.instructions import Example
from tests.data.examples import pieces_of


def pieces(*lengths, seed=0):
    """Pieces of random ids from lengths of prompts and answers."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(1, 99, p).astype(np.int32), rng.integers(1, 99, r).astype(np.int32), 10 + i)
        for i, (p, r) in enumerate(lengths)
    ]


def test_a_row_by_hand():
    batch = lay_out([[([5, 6], [7, 8, 9], 3), ([1], [2], 4)], []], 4, 5)
    by_hand = {
        "prompt": [5, 6, 1, 0],
        "prompt_segments": [1, 1, 2, 0],
        "prompt_positions": [0, 1, 0, 0],
        "answer": [7, 8, 9, 2, 0],
        "answer_segments": [1, 1, 1, 2, 0],
        "answer_positions": [2, 3, 4, 1, 0],
        "prompt_end": [1, 1, 1, 2, 0],
        "examples": [3, 3, 3, 4, -1],
        "answer_starts": [0, 0, 0, 3, 0],
    }
    for name, row in by_hand.items():
        found = getattr(batch, name)
        empty = [-1 if name == "examples" else 0] * len(row)
        assert (found.dtype, found.tolist()) == (np.int32, [row, empty]), name


def test_what_goes_in_comes_out():
    rows = [pieces((3, 4), (1, 1), (5, 2)), pieces((9, 8), seed=1), [], pieces((2, 1), (2, 7))]
    batch = lay_out(rows, 9, 8)
    for i, row in enumerate(rows):
        found = pieces_of(batch, i)
        assert [one[2] for one in found] == [one[2] for one in row]
        for (prompt, answer, _), (wanted_prompt, wanted_answer, _) in zip(found, row, strict=True):
            assert np.array_equal(prompt, wanted_prompt)
            assert np.array_equal(answer, wanted_answer)


def test_evaluation_batches_hold_one_example_a_row_and_fill_up_with_empty_rows():
    examples = [Example(i + 1, p, r, "", "") for i, (p, r, _) in enumerate(pieces(*[(3, 9)] * 9))]
    examples.append(Example(10, *pieces((11, 1))[0][:2], "", ""))
    batches = evaluation_batches(examples, 4)
    assert [(one.prompt.shape, one.answer.shape) for one in batches] == [((4, 16), (4, 16))] * 3
    found = [pieces_of(batch, i) for batch in batches for i in range(4)]
    assert [one[0][2] for one in found[:10]] == list(range(10))
    assert all(len(one) == 1 for one in found[:10])
    assert found[10:] == [[], []]
    assert np.array_equal(found[6][0][0], examples[6].prompt)


def test_batch_goes_through_jit():
    batch = lay_out([pieces((3, 4), (1, 1))], 5, 6)
    tokens = jax.jit(lambda one: (one.answer_segments > 0).sum())(batch)
    assert tokens == 5
