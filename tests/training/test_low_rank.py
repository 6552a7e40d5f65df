"""Adapters of a decoder's kernels: what they add, that nothing else moves, and when they add it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.model.low_rank import LowRank, init_adapters, merged
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.training import step
from overfill_jax.training.losses import Terms
from overfill_jax.training.methods import METHODS
from overfill_jax.training.objective import Objective
from overfill_jax.training.step import Setup, init_state, make_optimizer, make_schedule
from tests.builders import make_model, make_rows

LOW_RANK = LowRank(rank=3, alpha=6.0)
train_step = jax.jit(step.train_step, static_argnames="setup", donate_argnames="state")
validation_sums = jax.jit(step.validation_sums, static_argnames="setup")


@pytest.fixture(scope="module")
def models():
    full = make_model(num_layers=2)
    layers = np.stack([np.arange(15), np.arange(8, 23)])
    return {"full": full, "decoder": cut(full, Kept(np.arange(4, 16), layers))}


@pytest.fixture(scope="module")
def adapters(models):
    """With a B that is no longer 0."""
    drawn = init_adapters(models["decoder"].config, LOW_RANK.rank, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.float32(0.5 * rng.normal(size=x.shape)), drawn)


def make_setup(models, method="two_stage", low_rank=LOW_RANK, remat="none"):
    schedule, one = make_schedule(3e-2, 10, 0.1, 0.0), METHODS[method]
    return Setup(
        configs=tuple((name, model.config) for name, model in models.items()),
        roles=(one.reader, one.writer),
        trained=one.trained,
        objective=Objective(Terms(1.0, 0.5, 1.0, chunk=3), "full", False),
        optimizer=make_optimizer(schedule, 0.9, 0.99, 1e-8, 0.1, 1.0),
        schedule=schedule,
        accumulation=1,
        remat=remat,
        low_rank=low_rank,
    )


def first(models, setup, seed=0):
    config = models["decoder"].config
    drawn = init_adapters(config, setup.low_rank.rank, jax.random.key(seed))
    return init_state(setup, {"decoder": drawn})


def weights_of(models):
    return {name: model.params for name, model in models.items()}


def test_a_kernel_is_its_own_and_the_product(models, adapters):
    params = models["decoder"].params
    found = merged(params, adapters, LOW_RANK.scale)["layers"]
    for part, name, product in (
        ("attention", "query", "ldr,lrnh->ldnh"),
        ("attention", "out", "lnhr,lrd->lnhd"),
        ("mlp", "down", "lfr,lrd->lfd"),
    ):
        pair = jax.tree.map(np.float64, adapters["layers"][part][name])
        expected = params["layers"][part][name]["kernel"] + 2 * np.einsum(
            product, pair["a"], pair["b"]
        )
        np.testing.assert_allclose(found[part][name]["kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["two_stage", "pruned"])
def test_training_begins_at_the_pruned_model(models, method):
    setup, weights = make_setup(models, method), weights_of(models)
    state, batch = first(models, setup), make_rows().batch()
    found = validation_sums(setup, state.params, weights, batch)
    plain = make_setup(models, method, low_rank=None)
    frozen, trained = {"full": weights["full"]}, {"decoder": weights["decoder"]}
    expected = validation_sums(plain, trained, frozen, batch)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_merging_is_applying(models, adapters):
    setup, weights, batch = make_setup(models), weights_of(models), make_rows().batch()
    applied = validation_sums(setup, {"decoder": adapters}, weights, batch)
    plain = make_setup(models, low_rank=None)
    whole = {"decoder": merged(weights["decoder"], adapters, LOW_RANK.scale)}
    frozen = {"full": weights["full"]}
    expected = validation_sums(plain, whole, frozen, batch)
    for name, value in expected.items():
        np.testing.assert_allclose(applied[name], value, rtol=1e-6)
    untouched = validation_sums(plain, {"decoder": weights["decoder"]}, frozen, batch)
    assert abs(float(applied["loss"] / untouched["loss"]) - 1) > 0.01


def test_merged_weights_keep_their_dtype(models, adapters):
    half = jax.tree.map(lambda x: x.astype("bfloat16"), models["decoder"].params)
    found = merged(half, adapters, LOW_RANK.scale)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    exact = merged(jax.tree.map(jnp.float32, half), adapters, LOW_RANK.scale)
    rounded = jax.tree.map(lambda x: x.astype("bfloat16"), exact)
    jax.tree.map(np.testing.assert_array_equal, found, rounded)


def test_training_moves_every_adapter_and_nothing_else(models):
    setup, weights = make_setup(models), weights_of(models)
    before = jax.tree.map(np.array, weights)
    state, losses = first(models, setup), []
    drawn = jax.tree.map(np.array, state.params)
    for _ in range(8):
        state, metrics = train_step(setup, state, weights, make_rows().batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.95 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, weights, before)
    for old, new in zip(jax.tree.leaves(drawn), jax.tree.leaves(state.params), strict=True):
        assert np.any(old != new)
    # Neither weights nor moments of anything but the seven kernels' pairs.
    sizes = {x.shape for x in jax.tree.leaves(state.params)}
    assert {path[-1].key for path, _ in jax.tree.leaves_with_path(state.params)} == {"a", "b"}
    assert {x.shape for x in jax.tree.leaves(state.optimizer) if x.ndim} == sizes
    assert len(jax.tree.leaves(state.params)) == 14


def test_gradients_are_those_of_the_product(models, adapters):
    """By the chain rule from the gradient of the merged weights, with and without remat."""
    setup, weights = make_setup(models, remat="dots"), weights_of(models)
    batch = make_rows().batch()
    plain = make_setup(models, low_rank=None)
    frozen = {"full": weights["full"]}

    @jax.jit
    def gradients(adapters, whole, batch):
        def loss(setup, frozen, params):
            return step.validation_sums(setup, {"decoder": params}, frozen, batch)["loss"]

        of_pairs = jax.grad(functools.partial(loss, setup, weights))(adapters)
        return of_pairs, jax.grad(functools.partial(loss, plain, frozen))(whole)

    pairs, whole = gradients(adapters, merged(weights["decoder"], adapters, LOW_RANK.scale), batch)
    slope = whole["layers"]["mlp"]["up"]["kernel"]
    for name, product in (("a", "ldf,lrf->ldr"), ("b", "ldf,ldr->lrf")):
        other = adapters["layers"]["mlp"]["up"]["b" if name == "a" else "a"]
        expected = 2 * np.einsum(product, slope, other)
        found = pairs["layers"]["mlp"]["up"][name]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("remat", "stacked"), [("full", False), ("dots", False), ("none", True)])
def test_sums_exist_for_one_layer_at_a_time(models, remat, stacked):
    """Where the backward pass recomputes, no float32 array is as large as all layers' kernels."""
    setup = make_setup(models, remat=remat)
    half = jax.tree.map(lambda x: x.astype("bfloat16"), weights_of(models))
    state, batch = first(models, setup), jax.tree.map(jnp.asarray, make_rows().batch())
    program = str(jax.make_jaxpr(functools.partial(step.train_step, setup))(state, half, batch))
    assert "bf16[2,12,15]" in program  # gate and up
    assert ("f32[2,12,15]" in program.replace("bf16", "")) == stacked


def test_seeds_draw_other_adapters(models):
    setup = make_setup(models)
    one, same, other = (first(models, setup, seed).params for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    gate = [p["decoder"]["layers"]["mlp"]["gate"] for p in (one, other)]
    assert np.all(gate[0]["a"] != gate[1]["a"]) and not np.any(gate[0]["b"])
