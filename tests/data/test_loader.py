"""Loaders: every example once an epoch, and batches that follow from the step alone."""

import dataclasses
import itertools
import time
from collections import Counter

import jax
import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from overfill_jax.data.instructions import Example, read_options
from overfill_jax.data.loader import TrainingLoader, ValidationLoader, read_ahead
from overfill_jax.data.mixture import Mixture, load_mixture
from overfill_jax.data.order import draw
from overfill_jax.data.packing import RowShape, choose_shape, longest_shape, packed_shape
from overfill_jax.errors import InputError
from tests.data.examples import from_examples, make_mixture, pieces_of

PACKED = RowShape(96, 160, packed=True)
ROWS = 4  # of a batch


def shape_of(mixture, packed, cutoff=False):
    return PACKED if packed else longest_shape(mixture.prompts, mixture.answers, cutoff)


def loader(mixture, packed=True, cutoff=False, seed=0, rows=ROWS, handoffs=False):
    shape = shape_of(mixture, packed, cutoff)
    return TrainingLoader(mixture, shape, rows, seed, cutoff, handoffs)


def walk(loader, rows):
    """The examples of the first `rows` rows, each with its prompt length; contents are checked."""
    found = []
    for step in range(-(-rows // ROWS)):
        batch = loader.rows(step, 0, ROWS)
        for row in range(min(ROWS, rows - step * ROWS)):
            for prompt, answer, example in pieces_of(batch, row):
                whole = np.concatenate([prompt, answer])
                assert np.array_equal(whole, 1000 * example + np.arange(len(whole)))
                found.append((example, len(prompt), len(whole)))
    return found


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cutoff", [False, True])
def test_every_example_whole_and_once_an_epoch(packed, cutoff):
    mixture = make_mixture(101)
    one = loader(mixture, packed, cutoff)
    bounds = [one._order.first_row(epoch) for epoch in range(4)]
    orders = []
    for start, stop in itertools.pairwise(bounds):
        seen = walk(one, stop)[len(walk(one, start)) :]
        assert sorted(example for example, _, _ in seen) == list(range(101))
        for example, prompt, whole in seen:
            assert whole == mixture.prompts[example] + mixture.answers[example]
            assert prompt == mixture.prompts[example] or cutoff
        orders.append(tuple(example for example, _, _ in seen))
    assert len(set(orders)) == 3
    assert one.steps(1) == -(-bounds[1] // ROWS)
    assert one.steps(3) == -(-bounds[3] // ROWS)
    assert (bounds[1] == 101) is not packed


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cutoff", [False, True])
def test_a_batch_follows_from_the_step_alone(packed, cutoff):
    mixture = make_mixture(57)
    walked = loader(mixture, packed, cutoff, seed=7)
    in_order = [walked.rows(step, 0, ROWS) for step in range(40)]  # several epochs
    assert equal(loader(mixture, packed, cutoff, seed=7).rows(39, 0, ROWS), in_order[39])  # resumed
    assert equal(walked.rows(3, 0, ROWS), in_order[3])  # gone back
    assert not equal(loader(mixture, packed, cutoff, seed=8).rows(3, 0, ROWS), in_order[3])


@pytest.mark.parametrize(
    "spans", [[(0, 1), (1, 4)], [(0, 2), (2, 4)], [(i, i + 1) for i in range(4)]]
)
def test_it_does_not_matter_who_asks_for_which_rows(spans):
    one = loader(make_mixture(60), cutoff=True)
    for step in (0, 5, 11):
        parts = [one.rows(step, *span) for span in spans]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        assert equal(joined, one.rows(step, 0, ROWS))


def test_batch_size_does_not_change_the_order():
    mixture = make_mixture(60)
    small, large = (loader(mixture, cutoff=True, rows=rows) for rows in (2, 4))
    joined = jax.tree.map(
        lambda *parts: np.concatenate(parts), small.rows(6, 0, 2), small.rows(7, 0, 2)
    )
    assert equal(joined, large.rows(3, 0, 4))


def test_cutoff_is_uniform_and_leaves_two_tokens():
    mixture = make_mixture(1, answers=(6, 7), prompts=(3, 4))
    one = loader(mixture, packed=False, cutoff=True, rows=1)
    moved = Counter(one._order.epoch(epoch).prompts[0] - 3 for epoch in range(2000))
    assert sorted(moved) == [0, 1, 2, 3, 4]
    assert all(320 < count < 480 for count in moved.values())
    short = loader(make_mixture(50, answers=(1, 3)), packed=False, cutoff=True)
    assert (
        short._order.epoch(3).prompts == short._mixture.prompts[short._order.epoch(3).examples]
    ).all()


def test_cutoff_depends_on_the_example_and_not_on_its_place():
    """Packed or not, the same tokens of an example move, as long as its prompt fits."""
    mixture = make_mixture(80)
    wide = RowShape(200, 200, packed=True)
    packed = TrainingLoader(mixture, wide, ROWS, 0, True, False)._order.epoch(1)
    alone = loader(mixture, packed=False, cutoff=True)._order.epoch(1)
    by_example = dict(zip(alone.examples.tolist(), alone.prompts.tolist(), strict=True))
    assert by_example == dict(zip(packed.examples.tolist(), packed.prompts.tolist(), strict=True))
    narrow = RowShape(48, 200, packed=True)
    narrow = TrainingLoader(mixture, narrow, ROWS, 0, True, False)._order.epoch(1)
    for example, prompt in zip(narrow.examples.tolist(), narrow.prompts.tolist(), strict=True):
        assert prompt == min(by_example[example], 48)


def cuts_of(mixture, shape, epoch=0, seed=0):
    """How much of the answer moved, by line and by which of its examples it is."""
    found = TrainingLoader(mixture, shape, 1, seed, True, False)._order.epoch(epoch)
    moved = (found.prompts - mixture.prompts[found.examples]).tolist()
    tokens, seen = mixture.parts[0].tokens, Counter()
    cuts = {}
    for example, cut in sorted(zip(found.examples.tolist(), moved, strict=True)):
        line = tokens.rows[example]
        cuts[line, seen[line]] = cut
        seen[line] += 1
    return cuts


def of_lines(mixture, lines):
    """The examples of the mixture's only part as those of `lines`; of line 0 there is none."""
    tokens = mixture.parts[0].tokens
    examples = [
        Example(line, tokens.of(i)[: tokens.prompts[i]], tokens.of(i)[tokens.prompts[i] :], "", "")
        for i, line in enumerate(lines)
        if line
    ]
    return Mixture((dataclasses.replace(mixture.parts[0], tokens=from_examples(examples)),))


WIDE = RowShape(300, 300, packed=True)


@pytest.mark.parametrize("rejected", [0, 5, 20])
def test_a_line_that_is_rejected_changes_no_other_ones_cut(rejected):
    mixture = make_mixture(40, answers=(20, 200))
    lines = [1 + i // 2 for i in range(40)]  # two examples each, as of a conversation
    every = cuts_of(of_lines(mixture, lines), WIDE)
    without = of_lines(mixture, [0 if line == rejected + 1 else line for line in lines])
    fewer = cuts_of(without, WIDE)
    assert fewer == {key: cut for key, cut in every.items() if key[0] != rejected + 1}
    assert len(set(every.values())) > 25  # examples of one line are not cut alike


def test_slots_change_no_cut_but_by_their_number():
    mixture = of_lines(make_mixture(40, answers=(20, 200)), range(1, 41))
    wide, narrow = (cuts_of(mixture, RowShape(slots, 300, packed=True)) for slots in (300, 30))
    assert 0 < len(narrow) < 40  # some prompts alone are too long
    prompts = dict(zip(range(1, 41), mixture.prompts.tolist(), strict=True))
    for (line, turn), cut in narrow.items():
        assert cut == min(wide[line, turn], 30 - prompts[line])


def test_cuts_depend_on_seed_and_epoch():
    mixture = make_mixture(40, answers=(20, 200))
    cuts = [cuts_of(mixture, WIDE, *which) for which in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert cuts[0] == cuts[3]
    for one, other in itertools.combinations(cuts[:3], 2):
        assert sum(one[key] == other[key] for key in one) < 8


def test_drawn_numbers_are_uniform_and_independent():
    drawn = draw((7, 2, 0), np.arange(100_000))
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)
    for other in (draw((7, 2, 0), np.arange(1, 100_001)), draw((8, 2, 0), np.arange(100_000))):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.015


def test_weights_are_epochs_of_a_source_per_epoch():
    mixture = make_mixture(30, 40, 10, weights=("1", "1/4", "2.5"))
    one = loader(mixture)
    seen = [Counter(one._order.epoch(epoch).examples.tolist()) for epoch in range(4)]
    assert all(Counter(epoch[i] for i in range(30)) == {1: 30} for epoch in seen)
    quarters = [{i for i in range(30, 70) if epoch[i]} for epoch in seen]
    assert [len(quarter) for quarter in quarters] == [10] * 4
    assert set().union(*quarters) == set(range(30, 70))  # another quarter each time
    assert [sum(epoch[i] for i in range(70, 80)) for epoch in seen] == [25] * 4
    assert {epoch[i] for epoch in seen for i in range(70, 80)} == {2, 3}
    other = Counter(loader(mixture, seed=1)._order.epoch(0).examples.tolist())
    assert {i for i in range(30, 70) if other[i]} != quarters[0]
    assert Counter(sum(epoch[i] for epoch in seen) for i in range(70, 80)) == {10: 10}


def test_occurrences_of_an_example_are_cut_in_different_places():
    mixture = make_mixture(20, weights=("3",), answers=(30, 60))
    epoch = loader(mixture, packed=False, cutoff=True)._order.epoch(0)
    cuts = {i: set(epoch.prompts[epoch.examples == i].tolist()) for i in range(20)}
    assert sum(len(found) for found in cuts.values()) > 50


def test_rows_come_in_no_order_of_size():
    """Packing places large examples first; a batch must not be told by its lengths."""
    mixture = make_mixture(800)  # one window of packing
    epoch = loader(mixture)._order.epoch(0)
    sizes = np.maximum(mixture.prompts / 96, mixture.answers / 160)[epoch.examples]
    largest = [sizes[a:b].max() for a, b in itertools.pairwise(epoch.bounds)]
    assert abs(np.corrcoef(largest, range(len(largest)))[0, 1]) < 0.3


def test_examples_meet_others_in_every_epoch():
    one = loader(make_mixture(800))
    pairs = []
    for number in range(2):
        epoch = one._order.epoch(number)
        rows = [epoch.examples[a:b].tolist() for a, b in itertools.pairwise(epoch.bounds)]
        pairs.append({pair for row in rows for pair in itertools.combinations(sorted(row), 2)})
    assert len(pairs[0] & pairs[1]) < 0.05 * len(pairs[0])


@pytest.mark.parametrize("handoffs", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_validation_takes_all_in_order_and_fills_up_with_empty_rows(packed, handoffs):
    mixture = make_mixture(50)
    one = ValidationLoader(mixture, shape_of(mixture, packed), ROWS, handoffs)
    found = walk(one, one.steps * ROWS)
    assert sorted(example for example, _, _ in found) == list(range(50))
    assert packed or [example for example, _, _ in found] == list(range(50))
    last = one.rows(one.steps - 1, 0, ROWS)
    assert not last.answer_segments[-1].any() or packed
    assert equal(one.rows(1, 2, 3), jax.tree.map(lambda a: a[2:3], one.rows(1, 0, ROWS)))


@pytest.mark.parametrize(
    "make", [loader, lambda mixture: ValidationLoader(mixture, PACKED, ROWS, False)]
)
def test_examples_that_fit_no_row_are_reported_by_line(make, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    mixture = make_mixture(40, 40, prompts=(80, 100))
    one = make(mixture)
    long = np.flatnonzero(mixture.prompts > 96)
    rows = [10 * i + 10 for i in long if i < 40]
    assert said[0].startswith(
        f"part0.jsonl: {len(rows)} examples fit no row of 96 prompt and 160 answer slots "
        f"({len(rows)} x, lines {rows[0]}, {rows[1]}"
    )
    assert said[0].endswith("; they are left out")
    assert len(said) == 2
    assert one.filling.examples == 80 - len(long)
    with pytest.raises(InputError, match=r"part0\.jsonl: 5 examples fit no row .* no other"):
        make(make_mixture(5, prompts=(97, 98)))


def test_fewer_rows_than_a_batch():
    with pytest.raises(InputError, match=r"found 3 rows \(of 3 examples\), expected at least one"):
        loader(make_mixture(3), packed=False)
    with pytest.raises(InputError, match=r"found \d rows \(of 5 examples\)"):
        loader(make_mixture(5, prompts=(5, 9)))
    loader(make_mixture(4), packed=False)


def test_read_ahead_starts_anywhere_and_keeps_the_order():
    one = loader(make_mixture(60))
    steps = one.steps(3)
    batches = list(read_ahead(lambda step: one.rows(step, 0, ROWS), 5, steps))
    assert len(batches) == steps - 5
    assert all(equal(batch, one.rows(5 + i, 0, ROWS)) for i, batch in enumerate(batches))
    assert list(read_ahead(lambda step: step, 7, 7)) == []


def test_read_ahead_passes_errors_on():
    def load(step):
        if step == 3:
            raise InputError("bad step")
        return step

    batches = read_ahead(load, 1, 9)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(InputError, match="bad step"):
        next(batches)


def test_gsm8k_fills_rows_and_comes_fast(shared_data, tmp_path):
    """The project's own aims: 0.95 of the slots, and 300,000 tokens a second."""
    source, tokenizer = (
        shared_data / "gsm8k" / "train.jsonl",
        shared_data / "tokenizer/llama2.model",
    )
    if not (source.is_file() and tokenizer.is_file()):
        pytest.skip(f"no {source} or {tokenizer}")
    text = ConfigDict(
        {
            "prompt_column": "question",
            "response_column": "answer",
            "turns": "last",
            "max_prompt_tokens": 2000,
            "max_total_tokens": 2000,
        }
    )
    mixture = load_mixture(str(source), "train", tokenizer, read_options(text), tmp_path)
    for cutoff in (False, True):
        shape = packed_shape(mixture.prompts, mixture.answers, cutoff, 2048, 0)
        one = TrainingLoader(mixture, shape, 32, 0, cutoff, False)
        start = time.perf_counter()
        batches = [one.rows(step, 0, 32) for step in range(20)]
        seconds = time.perf_counter() - start
        tokens = sum(
            np.count_nonzero(batch.prompt_segments) + np.count_nonzero(batch.answer_segments)
            for batch in batches
        )
        print(f"\n{one.filling}; {tokens / seconds:,.0f} tokens a second")
        assert one.filling.examples == 7473
        assert one.filling.used >= 0.95
        assert tokens / seconds > 300_000  # several million, in fact
    padded = choose_shape(mixture.prompts, mixture.answers, False, False, 0, 0)
    print(TrainingLoader(mixture, padded, 32, 0, False, False).filling)
