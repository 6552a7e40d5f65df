"""Choosing channels, and what the cut leaves."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.model.size import decode_bytes, decode_parameters, parameters, parameters_by_part
from overfill_jax.model.transformer import abstract, hidden_states, unembed
from overfill_jax.pruning.choose import Kept, check_kept, choose
from overfill_jax.pruning.cut import cut, pruned_config
from overfill_jax.pruning.importance import Importance
from overfill_jax.pruning.sizes import check_removes, kept_sizes, kept_width, sizes_of
from tests.builders import CONFIG, make_model

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 9)))


@jax.jit
def logits_of(model):
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    hidden, _, _ = hidden_states(model, TOKENS, positions, jnp.ones_like(TOKENS))
    return unembed(model, hidden)


def some_channels(seed, hidden, intermediate):
    rng = np.random.default_rng(seed)
    layers = [rng.permutation(CONFIG.intermediate_size)[:intermediate] for _ in range(3)]
    return Kept(rng.permutation(CONFIG.hidden_size)[:hidden], np.stack(layers))


def zeroed(params, kept, axes):
    """The full weights with every dropped channel set to zero instead."""
    keep_hidden = np.isin(np.arange(CONFIG.hidden_size), kept.hidden)
    layers = jnp.stack([np.isin(np.arange(CONFIG.intermediate_size), i) for i in kept.intermediate])

    def mask(names, leaf):
        if "embed" in names:
            shape = [1] * leaf.ndim
            shape[names.index("embed")] = -1
            leaf = leaf * keep_hidden.reshape(shape)
        if "mlp" in names:
            shape = [3] + [1] * (leaf.ndim - 1)
            shape[names.index("mlp")] = -1
            leaf = leaf * layers.reshape(shape)
        return leaf

    return jax.tree.map(mask, axes, params, is_leaf=lambda x: isinstance(x, tuple))


AXES = {
    "embed": {"embedding": ("vocab", "embed")},
    "final_norm": {"scale": ("embed",)},
    "unembed": {"kernel": ("embed", "vocab")},
    "layers": {
        "attention_norm": {"scale": ("layers", "embed")},
        "mlp_norm": {"scale": ("layers", "embed")},
        "attention": {
            **{
                name: {
                    "kernel": ("layers", "embed", "heads", "head_dim"),
                    "bias": ("layers", "heads", "head_dim"),
                }
                for name in ("query", "key", "value")
            },
            "out": {"kernel": ("layers", "heads", "head_dim", "embed")},
            "query_norm": {"scale": ("layers", "head_dim")},
            "key_norm": {"scale": ("layers", "head_dim")},
        },
        "mlp": {
            "gate": {"kernel": ("layers", "embed", "mlp")},
            "up": {"kernel": ("layers", "embed", "mlp")},
            "down": {"kernel": ("layers", "mlp", "embed")},
        },
    },
}


def test_mlp_pruning_equals_zeroing_exactly():
    model = make_model()
    kept = some_channels(1, CONFIG.hidden_size, 11)
    masked = dataclasses.replace(model, params=zeroed(model.params, kept, AXES))
    np.testing.assert_allclose(logits_of(cut(model, kept)), logits_of(masked), atol=2e-5)


def test_hidden_pruning_equals_zeroing_with_the_norms_divisor_corrected():
    model = make_model()
    kept = some_channels(2, 10, 11)
    share = 10 / CONFIG.hidden_size
    params = zeroed(model.params, kept, AXES)
    # Over all D channels the mean square is `share` of that over the kept ones.
    for norms in (params, params["layers"]):
        for name in ("final_norm", "attention_norm", "mlp_norm"):
            if name in norms:
                norms[name] = {"scale": norms[name]["scale"] * share**0.5}
    config = dataclasses.replace(CONFIG, norm_epsilon=CONFIG.norm_epsilon * share)
    masked = dataclasses.replace(model, config=config, params=params)
    # The q/k norms keep their own epsilon, which `config` changed as well: too small to matter.
    np.testing.assert_allclose(logits_of(cut(model, kept)), logits_of(masked), atol=1e-4)


def test_keeping_everything_changes_nothing():
    model = make_model()
    whole = cut(model, some_channels(3, CONFIG.hidden_size, CONFIG.intermediate_size))
    for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("tied", [True, False])
def test_the_cut_fits_the_config_it_comes_with(tied):
    model = make_model(tied_embeddings=tied)
    kept = some_channels(4, 10, 11)
    pruned = cut(model, kept)
    assert pruned.config == pruned_config(model.config, kept)
    assert (pruned.config.hidden_size, pruned.config.intermediate_size) == (10, 11)
    assert pruned.config.handoff is None
    shapes = jax.tree.map(lambda x: x.shape, pruned.params)
    assert shapes == jax.tree.map(lambda x: x.shape, abstract(pruned.config, "float32").params)


@pytest.mark.parametrize(
    ("size", "amount", "multiple_of", "expected"),
    [
        (3072, 0.45, 1, 1689),
        (8192, 0.45, 1, 4505),
        (4096, 0.43, 1, 2334),
        (14336, 0.43, 1, 8171),
        (3072, 0.45, 384, 1536),
        (3072, 1536, 1, 1536),
        (3072, 1536.0, 1, 1536),
        (96, 0.0, 1, 96),
        (96, 96, 1, 96),
        (96, 1, 1, 1),
    ],
)
def test_widths_follow_the_reference(size, amount, multiple_of, expected):
    assert kept_width("prune.hidden", size, amount, multiple_of) == expected


@pytest.mark.parametrize(
    "amount", [-0.1, 1.0, 1.5, 97, 0, -3, 1000.0, math.inf, -math.inf, math.nan]
)
def test_widths_that_do_not_exist_are_refused(amount):
    with pytest.raises(InputError, match=r"prune\.hidden: found"):
        kept_width("prune.hidden", 96, amount, 1)


@pytest.mark.parametrize("multiple_of", [0, -8])
def test_multiples_that_do_not_exist_are_refused(multiple_of):
    with pytest.raises(InputError, match=r"prune\.multiple_of: found .*, expected at least 1"):
        kept_width("prune.hidden", 96, 0.5, multiple_of)


def test_a_ratio_that_leaves_no_multiple_is_refused():
    with pytest.raises(InputError, match="leaves no multiple of 64"):
        kept_width("prune.hidden", 96, 0.5, 64)


def test_selections():
    hidden = np.array([3.0, 9.0, 1.0, 9.0, 4.0], np.float32)
    importance = Importance(hidden, np.stack([hidden[::-1], hidden]), {})
    shape = dataclasses.replace(CONFIG, hidden_size=5, intermediate_size=5, num_layers=2)
    sizes = dataclasses.replace(sizes_of(shape), hidden=2, intermediate=3)

    def select(importance, selection, seed=0):
        return choose(shape, importance, sizes, selection, "importance", seed)

    kept = select(importance, "importance")
    assert kept.hidden.tolist() == [1, 3]
    assert kept.intermediate.tolist() == [[0, 1, 3], [1, 3, 4]]
    assert select(None, "first").intermediate.tolist() == [[0, 1, 2]] * 2
    random = select(importance, "random", 7)
    assert select(importance, "random", 7).hidden.tolist() == random.hidden.tolist()
    draws = {tuple(select(None, "random", seed).hidden) for seed in range(20)}
    assert len(draws) > 3
    with pytest.raises(InputError, match="selection: found 'best'"):
        select(importance, "best")
    with pytest.raises(InputError, match="none was measured"):
        select(None, "importance")


def test_a_cut_that_removes_nothing_is_refused():
    for hidden, intermediate in ((0.0, 0.0), (24, 0.0), (24.0, 40)):
        sizes = kept_sizes(CONFIG, hidden, intermediate, 1, 0.0, 0, 3, "last")
        with pytest.raises(InputError, match="keep every channel, head and layer, expected one"):
            check_removes(CONFIG, sizes)
    for changes in ({"hidden": 23}, {"group": 1}, {"kv_heads": 1}, {"layers": 2}):
        check_removes(CONFIG, dataclasses.replace(sizes, **changes))


@pytest.mark.parametrize(
    ("hidden", "layers", "message"),
    [
        ([0, 24], [[0]] * 3, "hidden: found index 0..24, expected 0..23"),
        ([0, 0], [[0]] * 3, "hidden: indices empty or repeated"),
        ([0], [[0]] * 2, "indices of 2 layers, expected 3"),
        ([0], [[0], [-1], [0]], "intermediate, layer 1: found index -1"),
    ],
)
def test_indices_of_another_model_are_refused(hidden, layers, message):
    with pytest.raises(InputError, match=message):
        check_kept(Kept(np.array(hidden), np.array(layers)), CONFIG, "kept.npz")


def test_parameters_of_the_released_decoders():
    llama_3b = dataclasses.replace(
        CONFIG, model_type="llama", vocab_size=128_256, hidden_size=3072, intermediate_size=8192,
        num_layers=28, num_heads=24, num_kv_heads=8, head_dim=128, tied_embeddings=True,
        qkv_bias=False, qk_norm=False,
    )  # fmt: skip
    assert parameters(llama_3b) == 3_212_749_824
    for widths in ((1689, 4505), (1536, 5376)):
        sizes = kept_sizes(llama_3b, *widths, 1, 0.0, 0.0, 0.0, "importance")
        pruned = pruned_config(llama_3b, choose(llama_3b, None, sizes, "first", "first", 0))
        assert round(parameters(pruned) / 1e9, 3) == 1.243


def test_decode_reads_one_row_of_an_untied_embedding():
    parts = parameters_by_part(CONFIG)
    assert sum(parts.values()) == sum(x.size for x in jax.tree.leaves(make_model()))
    read = sum(parts.values()) - parts["embed"] + CONFIG.hidden_size
    assert decode_parameters(CONFIG) == read
    assert decode_bytes(CONFIG, "bfloat16", 10) == 2 * (read + 2 * 3 * 2 * 8 * 10)
    tied = dataclasses.replace(CONFIG, tied_embeddings=True)
    assert decode_parameters(tied) == parameters(tied)
