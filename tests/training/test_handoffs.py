"""Several handoffs within an answer learn what each would learn in a pass of its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.data.batches import Batch, lay_out
from overfill_jax.data.handoffs import cut_into_blocks
from overfill_jax.inference.refresh_loss import refreshed_log_likelihoods
from overfill_jax.inference.serving_model import lay_out as lay_out_to_serve
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.transformer import Model
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.training.losses import Terms, divergence
from overfill_jax.training.methods import METHODS
from overfill_jax.training.objective import Objective, loss_sums
from overfill_jax.training.step import (
    Setup,
    init_state,
    make_optimizer,
    make_schedule,
    train_step,
)
from overfill_jax.two_stage import extend, handoff, prefill
from tests.builders import make_model, make_rows

ROWS = make_rows(seed=3, rows=5, prompt=9, answer=12)
# Where the blocks of each answer (of 10, 11, 8, 2 and 3 tokens) begin.
STARTS = [[0, 4, 5, 9], [0, 1, 6], [0], [0, 1], [0, 2]]
KNOWN = make_rows(seed=1, rows=8, prompt=9, answer=24)
TRAINED = frozenset({"decoder"})
TWO_STAGE = ("full", "decoder")


@functools.cache
def models():
    full = make_model(num_layers=2)
    layers = np.stack([np.arange(16), np.arange(8, 24)])
    return {"full": full, "decoder": cut(full, Kept(np.arange(4, 16), layers))}


@functools.cache
def shallow():
    """A decoder of one layer of two and one kv head of two."""
    shape = {"num_layers": 1, "num_kv_heads": 1, "num_heads": 2}
    return make_model(1, hidden_size=16, handoff=Handoff((1,), ((1,),)), **shape)


def with_starts(batch: Batch) -> Batch:
    """The batch with the blocks of `STARTS`, whichever row an example is in."""
    begin = batch.answer_starts.copy()
    for example, starts in enumerate(STARTS):
        rows, slots = np.nonzero(batch.examples == example)
        if len(slots):
            own = np.searchsorted(starts, np.arange(len(slots)), side="right") - 1
            begin[rows, slots] = slots[0] + np.asarray(starts)[own]
    return dataclasses.replace(batch, answer_starts=begin)


def packed() -> Batch:
    pieces = ROWS.pieces()
    return lay_out([[pieces[i] for i in (3, 0, 2)], [pieces[4], pieces[1]]], 40, 40)


def sums(decoder, first_token, handoffs, batch, roles=TWO_STAGE, trained=TRAINED):
    """Loss sums, and their gradient."""
    objective = Objective(Terms(1.0, 0.5, 1.5, chunk=8), first_token, handoffs)

    def loss(params, batch):
        pair = models() | {"decoder": Model(decoder.config, params)}
        terms = loss_sums(pair, roles, trained, objective, batch, "none")
        return terms["loss"], terms

    (_, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(decoder.params, batch)
    return terms, gradient


def blocks(first_token):
    """Of every block: the tokens before what the decoder reads, what it reads, what it predicts."""
    for (prompt, answer, _), starts in zip(ROWS.pieces(), STARTS, strict=True):
        tokens = np.concatenate([prompt, answer])
        for start, end in zip(starts, [*starts[1:], len(answer)], strict=True):
            first = len(prompt) + max(start, first_token == "full") - 1
            last = len(prompt) + end - 1
            if first < last:
                yield tokens[:first], tokens[first:last], tokens[first + 1 : last + 1]


def padded(rows):
    width = max(map(len, rows))
    return jnp.array([np.pad(row, (0, width - len(row))) for row in rows]), jnp.array(
        [len(row) for row in rows]
    )


def block_by_block(decoder, first_token):
    """The same by a prompt of its own for every block: prefill, handoff, extend."""
    full = models()["full"]
    (before, lengths), (inputs, counts), (wanted, _) = (
        padded(one) for one in zip(*blocks(first_token), strict=True)
    )
    counted = jnp.arange(inputs.shape[1]) < counts[:, None]

    @jax.jit
    def loss(params):
        _, cache = prefill(full, before, lengths, inputs.shape[1])
        aim, _ = extend(full, inputs, cache, counts)
        cache = handoff(cache, full.config, decoder.config, "full")
        logits, _ = extend(Model(decoder.config, params), inputs, cache, counts)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=2)
        cross_entropy = -jnp.sum(log_p[..., 0], where=counted)
        kl = jnp.sum(divergence(aim, logits, 1.5), where=counted)
        return cross_entropy + 0.5 * kl, {"cross_entropy": cross_entropy, "kl": kl}

    (total, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(decoder.params)
    return terms | {"loss": total, "tokens": jnp.sum(counts)}, gradient


def assert_equal(found, expected):
    (terms, gradient), (wanted, slopes) = found, expected
    for name, value in wanted.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (gradient, slopes)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max() + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "first_token"),
    [("narrow", "full"), pytest.param("shallow", "decoder", marks=pytest.mark.long)],
)
def test_one_pass_is_all_handoffs_one_by_one(decoder, first_token):
    decoder = shallow() if decoder == "shallow" else models()["decoder"]
    found = sums(decoder, first_token, True, with_starts(ROWS.batch()))
    assert_equal(found, block_by_block(decoder, first_token))
    assert_equal(sums(decoder, first_token, True, with_starts(packed())), found)
    # And the handoffs matter.
    plain, _ = sums(decoder, first_token, False, with_starts(ROWS.batch()))
    assert abs(float(plain["loss"] - found[0]["loss"])) > 1e-3 * float(plain["loss"])
    assert plain["tokens"] == found[0]["tokens"]


@pytest.mark.parametrize("first_token", ["full", pytest.param("decoder", marks=pytest.mark.long)])
def test_one_handoff_is_training_as_ever(first_token):
    decoder = models()["decoder"]
    for batch in (ROWS.batch(), packed()):
        found = sums(decoder, first_token, True, batch)
        assert_equal(found, sums(decoder, first_token, False, batch))


def train(models, method, handoffs, steps, rate):
    """The trained model after steps on `KNOWN`, whose answers are cut anew in every step."""
    schedule = make_schedule(rate, steps, 0.1, 0.0)
    setup = Setup(
        configs=tuple((name, model.config) for name, model in models.items()),
        roles=(method.reader, method.writer),
        trained=method.trained,
        objective=Objective(Terms(1.0, 0.0, 1.0, chunk=64), "full", handoffs),
        optimizer=make_optimizer(schedule, 0.9, 0.98, 1e-8, 0.0, 1.0),
        schedule=schedule,
        accumulation=1,
        remat="none",
        low_rank=None,
    )
    (name,) = method.trained
    state = init_state(setup, {name: models[name].params})
    frozen = {other: m.params for other, m in models.items() if other != name}
    step_once = jax.jit(functools.partial(train_step, setup), donate_argnums=0)
    for step in range(steps):
        batch = cut_into_blocks(KNOWN.batch(), [(step, row) for row in range(len(KNOWN.answer))])
        state, _ = step_once(state, frozen, batch)
    return Model(models[name].config, state.params[name])


def refreshed_loss(full, decoder, interval):
    whole = [np.concatenate(piece[:2]) for piece in KNOWN.pieces()]
    tokens, _ = padded(whole)
    slots = KNOWN.answer.shape[1]
    likelihoods, _ = refreshed_log_likelihoods(
        *map(lay_out_to_serve, (full, decoder)), tokens, jnp.asarray(KNOWN.prompt_lengths),
        jnp.int32(interval), jnp.float32(np.inf), slots=slots, first_token="full",
        dtype=decoder.config.dtype,
    )  # fmt: skip
    return -np.mean(likelihoods, where=np.arange(slots) < KNOWN.answer_lengths[:, None])


@pytest.mark.long
def test_a_decoder_of_many_handoffs_gains_by_every_refresh():
    """The more often, the lower the loss; a decoder of one handoff an answer only loses by it."""
    full = make_model(num_layers=2)
    full = train({"full": full}, METHODS["full"], False, 150, 1e-2)
    layers = np.stack([np.arange(16), np.arange(8, 24)])
    pair = {"full": full, "decoder": cut(full, Kept(np.arange(4, 16), layers))}
    losses = {}
    for handoffs in (True, False):
        decoder = train(pair, METHODS["two_stage"], handoffs, 150, 1e-2)
        losses[handoffs] = [refreshed_loss(full, decoder, r) for r in (1, 2, 4, 8, 99)]
    # Found: 0.003, 0.006, 0.007, 0.007, 0.008, and 0.003, 0.587, 0.777, 0.571, 0.007.
    assert np.min(np.diff(losses[True])) > -0.05 * losses[True][-1]
    assert losses[True][0] < losses[True][1] < 0.9 * losses[True][-1]
    assert losses[False][2] > 10 * losses[False][-1]
    assert losses[True][2] < 0.1 * losses[False][2]
