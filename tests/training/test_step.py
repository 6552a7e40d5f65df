"""Objective and optimiser step: what is minimised, what moves, and what must not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from overfill_jax.model.transformer import hidden_states, unembed
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.training import objective as objectives
from overfill_jax.training import step
from overfill_jax.training.losses import Terms
from overfill_jax.training.methods import JOINT, METHODS, choose_method
from overfill_jax.training.objective import Objective, answer_log_likelihoods
from overfill_jax.training.step import (
    Setup,
    init_state,
    make_optimizer,
    make_schedule,
)
from tests.builders import make_model, make_rows

CROSS_ENTROPY = Objective(Terms(1.0, 0.0, 1.0, chunk=3), "full", False)
likelihoods = functools.partial(
    jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk")), chunk=3
)
loss_sums = jax.jit(
    objectives.loss_sums, static_argnames=("roles", "trained", "objective", "remat")
)
train_step = jax.jit(step.train_step, static_argnames="setup", donate_argnames="state")
validation_sums = jax.jit(step.validation_sums, static_argnames="setup")


@pytest.fixture(scope="module")
def full():
    return make_model(num_layers=2)


@pytest.fixture(scope="module")
def decoder(full):
    layers = np.stack([np.arange(16), np.arange(8, 24)])
    return cut(full, Kept(np.arange(4, 16), layers))


def make_setup(models, method, objective=CROSS_ENTROPY, accumulation=1, remat="none"):
    schedule = make_schedule(1e-2, 10, 0.1, 0.0)
    return Setup(
        configs=tuple((name, model.config) for name, model in models.items()),
        roles=(method.reader, method.writer),
        trained=method.trained,
        objective=objective,
        optimizer=make_optimizer(schedule, 0.9, 0.99, 1e-8, 0.1, 1.0),
        schedule=schedule,
        accumulation=accumulation,
        remat=remat,
        low_rank=None,
    )


def split(models, method):
    trained = {name: models[name].params for name in method.trained}
    frozen = {name: m.params for name, m in models.items() if name not in method.trained}
    return trained, frozen


def by_hand(full_model, pieces):
    """Log-likelihood of every answer token by one uncached pass of a model alone."""
    rows = []
    for prompt, answer, _ in pieces:
        p, r = len(prompt), len(answer)
        tokens = jnp.concatenate([prompt, answer])[None]
        hidden, _, _ = hidden_states(
            full_model, tokens, jnp.arange(p + r)[None], jnp.ones_like(tokens)
        )
        log_p = jax.nn.log_softmax(unembed(full_model, hidden)[0, p - 1 : -1])
        rows.append(np.asarray(log_p[jnp.arange(r), answer]))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_a_model_alone_scores_as_in_one_uncached_pass(full, first_token):
    rows = make_rows(rows=3)
    scores = np.asarray(likelihoods(full, full, rows.batch(), first_token))
    for row, expected in zip(scores, by_hand(full, rows.pieces()), strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, atol=3e-5)
        assert not row[len(expected) :].any()


def test_the_full_model_owns_the_first_token(full, decoder):
    batch = make_rows(rows=3).batch()
    pair = likelihoods(full, decoder, batch, "full")
    alone = likelihoods(full, full, batch, "full")
    np.testing.assert_allclose(pair[:, 0], alone[:, 0], atol=1e-6)
    assert np.max(np.abs(pair[:, 1] - alone[:, 1])) > 1e-2
    other = likelihoods(full, decoder, batch, "decoder")
    assert np.max(np.abs(other[:, 0] - alone[:, 0])) > 1e-2


@pytest.mark.parametrize(
    ("roles", "trained", "first_token", "counted"),
    [
        (("full", "decoder"), {"decoder"}, "full", "without the first"),
        (("full", "decoder"), {"decoder"}, "decoder", "all"),
        (("full", "decoder"), {"full", "decoder"}, "full", "all"),
        (("decoder", "decoder"), {"decoder"}, "full", "all"),
    ],
)
def test_the_loss_covers_what_a_trained_model_answers_for(
    full, decoder, roles, trained, first_token, counted
):
    rows, models = make_rows(rows=3), {"full": full, "decoder": decoder}
    batch = rows.batch()
    objective = dataclasses.replace(CROSS_ENTROPY, first_token=first_token)
    sums = loss_sums(models, roles, frozenset(trained), objective, batch, "none")
    scores = np.asarray(likelihoods(models[roles[0]], models[roles[1]], batch, first_token))
    first = 1 if counted == "without the first" else 0
    assert float(sums["tokens"]) == np.sum(rows.answer_lengths - first)
    np.testing.assert_allclose(sums["cross_entropy"], -scores[:, first:].sum(), rtol=1e-5)


def test_kl_is_zero_against_itself_and_weighs_in(full, decoder):
    batch = make_rows(rows=3).batch()
    objective = Objective(Terms(0.25, 2.0, 1.5, chunk=4), "full", False)
    roles, trained = ("full", "decoder"), frozenset({"decoder"})
    same = loss_sums({"full": full, "decoder": full}, roles, trained, objective, batch, "none")
    assert abs(float(same["kl"])) < 1e-3
    sums = loss_sums({"full": full, "decoder": decoder}, roles, trained, objective, batch, "none")
    assert float(sums["kl"]) > 0.1
    expected = 0.25 * sums["cross_entropy"] + 2.0 * sums["kl"]
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
def test_two_stage_training_moves_the_decoder_and_only_it(full, decoder, kl_weight):
    models, method = {"full": full, "decoder": decoder}, METHODS["two_stage"]
    trained, frozen = split(models, method)
    setup = make_setup(
        models, method, Objective(Terms(1.0, kl_weight, 1.0, chunk=3), "full", False)
    )
    state, losses = init_state(setup, trained), []
    for _ in range(8):
        state, metrics = train_step(setup, state, frozen, make_rows().batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    rows = make_rows()
    assert metrics["all_tokens"] == rows.prompt_lengths.sum() + rows.answer_lengths.sum()
    for old, new in zip(
        jax.tree.leaves(decoder.params), jax.tree.leaves(state.params["decoder"]), strict=True
    ):
        assert np.any(np.asarray(old) != np.asarray(new))


def test_the_full_model_receives_no_gradient(full, decoder):
    """The frozen model is no input of what is differentiated: its gradient does not exist."""
    models, method = {"full": full, "decoder": decoder}, METHODS["two_stage"]
    trained, _ = split(models, method)
    state = init_state(make_setup(models, method), trained)
    assert set(state.params) == {"decoder"}
    moments = jax.tree.leaves(state.optimizer)
    sizes = {x.shape for x in moments if x.ndim}
    assert sizes <= {x.shape for x in jax.tree.leaves(decoder.params)}


@pytest.mark.slow
def test_joint_training_moves_both(full, decoder):
    models = {"full": full, "decoder": decoder}
    setup = make_setup(models, JOINT)
    state = init_state(setup, {name: m.params for name, m in models.items()})
    before = jax.tree.map(np.array, state.params)
    for _ in range(2):  # the warm-up's first step has rate 0
        state, _ = train_step(setup, state, {}, make_rows().batch())
    for name in models:
        kernel = state.params[name]["layers"]["attention"]["key"]["kernel"]
        assert np.any(before[name]["layers"]["attention"]["key"]["kernel"] != kernel)


def test_accumulation_does_not_change_the_step(full, decoder):
    models, method = {"full": full, "decoder": decoder}, METHODS["two_stage"]
    trained, frozen = split(models, method)
    results = []
    for accumulation in (1, 4):
        setup = make_setup(models, method, accumulation=accumulation)
        state = init_state(setup, trained)
        for _ in range(3):
            state, metrics = train_step(setup, state, frozen, make_rows().batch())
        results.append((metrics["loss"], metrics["gradient_norm"]))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4)


@pytest.mark.long
def test_remat_does_not_change_the_gradients(full, decoder):
    models, method = {"full": full, "decoder": decoder}, METHODS["pruned"]
    trained, frozen = split(models, method)
    results = []
    for policy in ("none", "full", "dots"):
        setup = make_setup(models, method, remat=policy)
        _, metrics = train_step(setup, init_state(setup, trained), frozen, make_rows().batch())
        results.append((metrics["loss"], metrics["gradient_norm"]))
    np.testing.assert_allclose(results[1:], results[:1] * 2, rtol=1e-5)


def test_masters_are_float32_under_bfloat16_compute(full, decoder):
    models = {
        name: dataclasses.replace(m, config=dataclasses.replace(m.config, dtype="bfloat16"))
        for name, m in {"full": full, "decoder": decoder}.items()
    }
    method = METHODS["two_stage"]
    trained, frozen = split(models, method)
    setup = make_setup(models, method)
    state, metrics = train_step(setup, init_state(setup, trained), frozen, make_rows().batch())
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    exact = validation_sums(
        make_setup({"full": full, "decoder": decoder}, method),
        {"decoder": decoder.params},
        frozen,
        make_rows().batch(),
    )
    exact_loss = float(exact["loss"] / exact["tokens"])
    assert abs(float(metrics["loss"]) - exact_loss) < 0.05 * exact_loss


def test_schedule_and_weight_decay():
    schedule = make_schedule(1.0, 100, 0.1, 0.05)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10, 100)], [0, 0.5, 1, 0.05], atol=1e-6)
    at_once = make_schedule(1.0, 100, 0.0, 0.05)
    np.testing.assert_allclose([at_once(i) for i in (0, 50, 100)], [1, 0.525, 0.05], atol=1e-6)
    params = {"norm": {"scale": jnp.ones(3)}, "mlp": {"kernel": jnp.ones(3)}}
    optimizer = make_optimizer(optax.constant_schedule(0.1), 0.9, 0.99, 1e-8, 0.5, 1.0)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert not updates["norm"]["scale"].any()
    np.testing.assert_allclose(updates["mlp"]["kernel"], -0.05)


def test_epsilon_bounds_the_first_step():
    """It is the gradient's sign times the rate, unless epsilon is as large as the gradient."""
    params = {"kernel": jnp.zeros(1)}
    for epsilon, expected in ((1e-8, -0.1), (0.25, -0.05)):
        optimizer = make_optimizer(optax.constant_schedule(0.1), 0.9, 0.99, epsilon, 0.0, 1.0)
        updates, _ = optimizer.update({"kernel": jnp.full(1, 0.25)}, optimizer.init(params), params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "freeze", "kl_weight", "handoffs", "lora_rank", "message"),
    [
        ("both", "full", 0.0, False, 0, r"train\.method: found 'both', expected one of"),
        ("two_stage", "decoder", 0.0, False, 0, r"train\.freeze: found 'decoder'"),
        ("scratch", "none", 0.0, False, 0, "goes with method 'two_stage'"),
        ("full", "full", 1.0, False, 0, r"train\.kl_weight: found 1, expected 0"),
        ("pruned", "full", 0.0, True, 0, r"handoffs: goes with .*'two_stage', found 'pruned'"),
        ("full", "full", 0.0, False, 8, r"train\.lora_rank: found 8 with method 'full'"),
        ("scratch", "full", 0.0, False, 8, r"train\.lora_rank: found 8 with method 'scratch'"),
        ("two_stage", "none", 0.0, False, 8, r"train\.lora_rank: .* and freeze 'none', expected 0"),
    ],
)
def test_contradicting_settings_are_refused(
    method, freeze, kl_weight, handoffs, lora_rank, message
):
    with pytest.raises(ValueError, match=message):
        choose_method(method, freeze, kl_weight, handoffs, lora_rank)
