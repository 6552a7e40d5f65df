"""Heads, kv groups and layers: which go, and that nothing but what is removed is missing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.transformer import Model, abstract
from overfill_jax.pruning.choose import (
    Kept,
    by_importance,
    check_kept,
    choose,
    load_kept,
    save_kept,
)
from overfill_jax.pruning.cut import cut, pruned_config
from overfill_jax.pruning.importance import Importance
from overfill_jax.pruning.sizes import given_layers, kept_sizes, sizes_of
from overfill_jax.two_stage import extend, handoff, prefill
from tests.builders import CONFIG, make_model, make_rows

WHOLE = Kept(np.arange(CONFIG.hidden_size), np.tile(np.arange(CONFIG.intermediate_size), (3, 1)))
TOLERANCE = {"rtol": 0, "atol": 2e-5}
# Four query heads of each of three kv heads, four layers.
WIDE = dataclasses.replace(CONFIG, num_layers=4, num_heads=12, num_kv_heads=3)


@jax.jit
def two_stage_logits(full, decoder):
    rows = make_rows()
    first, cache = prefill(full, jnp.asarray(rows.prompt), jnp.asarray(rows.prompt_lengths), 7)
    cache = handoff(cache, full.config, decoder.config, "full")
    return first, extend(decoder, jnp.asarray(rows.answer), cache)[0]


def changed(model, path, change):
    """The model with one array of its layers replaced."""
    layers = jax.tree.map(lambda x: x, model.params["layers"])
    *folders, leaf = path
    place = layers
    for name in folders:
        place = place[name]
    place[leaf] = change(place[leaf])
    return Model(model.config, model.params | {"layers": layers})


def without(model, layer, heads):
    """The model with these heads of a layer mixed into nothing."""
    return changed(
        model, ("attention", "out", "kernel"), lambda x: x.at[layer, np.array(heads)].set(0.0)
    )


def importance_of(config, heads=None, layers=None):
    rng = np.random.default_rng(0)
    shapes = (config.hidden_size,), (config.num_layers, config.intermediate_size)
    widths = [rng.random(shape).astype(np.float32) for shape in shapes]
    heads = rng.random((config.num_layers, config.num_heads)) if heads is None else heads
    layers = rng.random(config.num_layers) if layers is None else layers
    return Importance(*widths, {}, np.float32(heads), np.float32(layers))


def test_removing_query_heads_that_say_nothing_changes_nothing():
    removed = [[1, 2], [0, 3], [0, 2]]
    full = make_model()
    for layer, heads in enumerate(removed):
        full = without(full, layer, heads)
    heads = np.stack([np.setdiff1d(np.arange(4), gone) for gone in removed])
    decoder = cut(full, dataclasses.replace(WHOLE, heads=heads))
    assert (decoder.config.num_heads, decoder.config.head_dim) == (2, CONFIG.head_dim)
    assert decoder.config.handoff is None
    for found, expected in zip(
        two_stage_logits(full, decoder), two_stage_logits(full, full), strict=True
    ):
        np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_removing_kv_groups_that_say_nothing_changes_nothing():
    full = make_model()
    for layer, group in enumerate((1, 0, 1)):
        full = without(full, layer, [2 * group, 2 * group + 1])
    kv_heads = np.array([[0], [1], [0]])
    heads = np.array([[0, 1], [2, 3], [0, 1]])
    decoder = cut(full, dataclasses.replace(WHOLE, kv_heads=kv_heads, heads=heads))
    assert (decoder.config.num_heads, decoder.config.num_kv_heads) == (2, 1)
    assert decoder.config.handoff == Handoff((0, 1, 2), ((0,), (1,), (0,)))
    found, expected = two_stage_logits(full, decoder)[1], two_stage_logits(full, full)[1]
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_removing_layers_that_pass_the_stream_on_changes_nothing():
    full = without(make_model(), 1, range(4))
    full = changed(full, ("mlp", "down", "kernel"), lambda x: x.at[1].set(0.0))
    layers = np.array([0, 2])
    kept = dataclasses.replace(WHOLE, intermediate=WHOLE.intermediate[layers], layers=layers)
    decoder = cut(full, kept)
    assert decoder.config.handoff == Handoff((0, 2), ((0, 1), (0, 1)))
    found, expected = two_stage_logits(full, decoder)[1], two_stage_logits(full, full)[1]
    np.testing.assert_array_equal(found, expected)


def test_the_cut_with_width_pruning_is_each_cut_after_the_other():
    full = make_model()
    width = Kept(np.arange(2, 20), np.stack([np.arange(n, n + 16) for n in range(3)]))
    layers, kv_heads = np.array([0, 2]), np.array([[1], [0]])
    heads = np.array([[3], [0]])
    at_once = cut(full, Kept(width.hidden, width.intermediate[layers], layers, kv_heads, heads))
    narrow = cut(full, width)
    whole = Kept(np.arange(18), np.tile(np.arange(16), (3, 1)))
    rows = whole.intermediate[layers]
    shallow = cut(narrow, dataclasses.replace(whole, intermediate=rows, layers=layers))
    one_by_one = cut(
        shallow, dataclasses.replace(whole, intermediate=rows, kv_heads=kv_heads, heads=heads)
    )
    jax.tree.map(np.testing.assert_array_equal, at_once.params, one_by_one.params)
    shapes = jax.tree.map(lambda x: x.shape, at_once.params)
    assert shapes == jax.tree.map(lambda x: x.shape, abstract(at_once.config, "float32").params)
    assert at_once.config.handoff == Handoff((0, 2), ((1,), (0,)))


def test_importance_decides_within_each_layer_and_each_kv_head():
    heads = np.ones((4, 12))
    heads[0, [0, 5, 10]] = 5  # the best of each group
    heads[1, [4, 5, 6, 7]] = 3  # a group that is best together
    heads[1, 11] = 4  # and the best head, in a worse one
    importance = importance_of(WIDE, heads, [0.3, 0.1, 0.2, 0.4])
    sizes = dataclasses.replace(sizes_of(WIDE), group=1)
    kept = choose(WIDE, importance, sizes, "importance", "importance", 0)
    assert kept.heads[:2].tolist() == [[0, 5, 10], [0, 4, 11]]
    assert (kept.kv_heads, kept.layers) == (None, None)
    sizes = dataclasses.replace(sizes_of(WIDE), kv_heads=1, group=2, layers=2)
    kept = choose(WIDE, importance, sizes, "importance", "importance", 0)
    assert kept.layers.tolist() == [0, 3]
    assert kept.kv_heads.tolist() == [[0], [0]]
    kept = choose(WIDE, importance, sizes, "importance", [1, 2], 0)
    assert (kept.kv_heads.tolist(), kept.heads.tolist()) == ([[1], [0]], [[4, 5], [0, 1]])
    assert kept.intermediate.shape == (2, WIDE.intermediate_size)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("first", [0, 1, 2]),
        ("last", [2, 3, 4]),
        ("firstlast", [0, 1, 4]),
        ("importance", [0, 2, 3]),
        ("1,2,4", [1, 2, 4]),
        ((0, 1, 4), [0, 1, 4]),
    ],
)
def test_which_layers_stay(layers, expected):
    shape = dataclasses.replace(CONFIG, num_layers=5)
    sizes = kept_sizes(shape, 0.0, 0.0, 1, 0.0, 0.0, 0.4, layers)
    importance = importance_of(shape, layers=[0.5, 0.1, 0.4, 0.3, 0.2])
    kept = choose(shape, importance, sizes, "importance", layers, 0)
    assert kept.layers.tolist() == expected
    np.testing.assert_array_equal(kept.intermediate, np.tile(np.arange(40), (3, 1)))


def test_selections_without_importance():
    sizes = dataclasses.replace(sizes_of(WIDE), kv_heads=2, group=3, layers=2)
    kept = choose(WIDE, None, sizes, "first", "last", 0)
    assert kept.kv_heads.tolist() == [[0, 1]] * 2
    assert kept.heads.tolist() == [[0, 1, 2, 4, 5, 6]] * 2
    drawn = [choose(WIDE, None, sizes, "random", "random", seed) for seed in (*range(20), 0)]
    for kept in drawn:
        check_kept(kept, WIDE, "drawn")
    assert len({tuple(kept.layers) for kept in drawn}) > 3
    assert len({str(kept.heads) for kept in drawn}) > 10
    np.testing.assert_array_equal(drawn[0].heads, drawn[-1].heads)
    # What is drawn for heads and layers leaves the draws of channels as they were.
    narrow = dataclasses.replace(sizes_of(WIDE), hidden=9, intermediate=5)
    alone = choose(WIDE, None, narrow, "random", "random", 3)
    both = choose(WIDE, None, dataclasses.replace(narrow, group=1), "random", "random", 3)
    np.testing.assert_array_equal(alone.hidden, both.hidden)
    np.testing.assert_array_equal(alone.intermediate, both.intermediate)


def test_importance_is_asked_for_only_where_it_decides():
    whole = sizes_of(WIDE)
    shallow = dataclasses.replace(whole, layers=2)
    assert not by_importance(WIDE, shallow, "importance", "last")
    assert by_importance(WIDE, shallow, "first", "importance")
    assert not by_importance(WIDE, dataclasses.replace(whole, group=1), "first", "importance")
    assert by_importance(WIDE, dataclasses.replace(whole, kv_heads=1), "importance", "last")
    earlier = dataclasses.replace(importance_of(WIDE), heads=None, layers=None)
    with pytest.raises(InputError, match=r"found none of layers, .* by an earlier version"):
        choose(WIDE, earlier, shallow, "importance", "importance", 0)
    choose(WIDE, earlier, shallow, "importance", "last", 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"heads": 0.5}, (4, 3, 2)),
        ({"heads": 3}, (4, 3, 3)),
        ({"heads": 1.0}, (4, 3, 1)),
        ({"kv_heads": 1.0, "depth": 1}, (1, 1, 4)),
        ({"kv_heads": 0.34, "depth": 0.5}, (2, 1, 4)),
        ({"layers": "0,3"}, (2, 3, 4)),
        ({"layers": [3], "depth": 0.75}, (1, 3, 4)),
        ({"heads": 0, "kv_heads": 0.0}, (4, 3, 4)),
    ],
)
def test_shares_and_counts(changes, expected):
    sizes = sizes_with(**changes)
    assert (sizes.layers, sizes.kv_heads, sizes.group) == expected


def sizes_with(**changes):
    given = {"heads": 0.0, "kv_heads": 0.0, "depth": 0.0, "layers": "importance", **changes}
    return kept_sizes(WIDE, 0.0, 0.0, 1, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, r"prune\.heads: found width 5, expected a whole number from 1 to 4"),
        ({"heads": 0.9}, r"prune\.heads: ratio 0.9 of 4"),
        ({"kv_heads": -0.5}, r"prune\.kv_heads: found ratio -0.5"),
        ({"kv_heads": 1.5}, r"prune\.kv_heads: found width 1.5"),
        ({"depth": 4.5}, r"prune\.depth: found width 4.5"),
        ({"depth": float("nan")}, r"prune\.depth: found ratio nan"),
        ({"layers": "middle"}, r"prune\.layers: found 'middle', expected one of .*'firstlast'"),
        ({"layers": "0,4"}, r"prune\.layers: found '0,4', expected some of the layers 0..3, asc"),
        ({"layers": "2,1"}, r"prune\.layers: found '2,1', .* ascending"),
        ({"layers": [1, 1]}, r"prune\.layers: found \[1, 1\], .* ascending"),
        ({"layers": [-1, 1]}, r"prune\.layers: found \[-1, 1\]"),
        ({"layers": ()}, r"prune\.layers: found \(\), expected some"),
        ({"layers": "0,0.5"}, r"prune\.layers: found '0,0.5', expected one of"),
        ({"layers": "0,1", "depth": 3}, r"prune\.depth: found 3, which keeps 3 layers, .* names 2"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        sizes_with(**changes)


def test_given_layers_are_numbers():
    assert given_layers(" 0, 2", 3) == [0, 2]
    assert given_layers("random", 3) is None


def test_kept_sets_come_back(tmp_path):
    sizes = dataclasses.replace(sizes_of(WIDE), hidden=5, kv_heads=2, group=3, layers=2)
    kept = choose(WIDE, importance_of(WIDE), sizes, "importance", "importance", 0)
    save_kept(tmp_path / "kept.npz", kept)
    again = load_kept(tmp_path / "kept.npz", WIDE)
    jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(again), dataclasses.asdict(kept))
    assert pruned_config(WIDE, again) == pruned_config(WIDE, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [0, 4]}, "layers: found index 0..4, expected 0..3"),
        ({"layers": [2, 0]}, r"layers has shape \(2,\) .*, expected ascending"),
        (
            {"layers": np.array([2, 0], np.uint32)},
            r"layers has shape \(2,\) .*, expected ascending",
        ),
        ({"layers": [0, None]}, "not an index file .Object arrays"),
        ({"layers": [0.0, 1.0]}, "layers has shape .* float64, expected ascending integers"),
        ({"layers": [[0, 1]]}, "layers has shape .*, expected ascending integers with 1 axes"),
        ({"layers": [0, 1, 2]}, "indices of 2 layers, expected 3"),
        ({"kv_heads": [[0, 3]] * 2}, "kv_heads, layer 0: found index 0..3, expected 0..2"),
        ({"heads": [[0, 12]] * 2}, "heads, layer 0: found index 0..12, expected 0..11"),
        ({"heads": [[0, 4, 8, 9]] * 2}, "heads: expected as many query heads of every kv head"),
        ({"heads": [[0, 1, 4]] * 2}, "heads: expected as many query heads of every kv head"),
        ({"kv_heads": [[0, 1]] * 2}, "heads: expected as many query heads of every kv head"),
        ({"heads": [[0, 4]] * 2, "kv_heads": [[0, 2]] * 2}, "heads: expected as many query"),
    ],
)
def test_indices_that_are_not_of_this_model(tmp_path, changes, message):
    arrays = {"hidden": [0, 1], "intermediate": [[0]] * 2, "layers": [0, 1], **changes}
    np.savez(tmp_path / "kept.npz", **{name: np.array(x) for name, x in arrays.items()})
    with pytest.raises(InputError, match=rf"kept\.npz: {message}"):
        load_kept(tmp_path / "kept.npz", WIDE)
