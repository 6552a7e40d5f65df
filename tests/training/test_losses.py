"""Losses over chunks of logits: equal to the plain formula, and never all of them there."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.model.transformer import abstract, unembed, unembedding
from overfill_jax.training.losses import Terms, answer_losses, token_losses
from tests.builders import CONFIG, make_model

TEMPERATURE = 1.7


def by_formula(model, hidden, tokens, target, target_hidden):
    return by_logits(unembed(model, hidden), tokens, unembed(target, target_hidden))


def by_logits(logits, tokens, aim):
    """Negative log-likelihood and KL(target || model) * T^2, written out over all logits."""
    log_p = jax.nn.log_softmax(logits)
    q = jax.nn.softmax(aim / TEMPERATURE)
    cooled = jax.nn.log_softmax(logits / TEMPERATURE)
    nll = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    return nll, TEMPERATURE**2 * jnp.sum(q * (jnp.log(q) - cooled), axis=-1)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    full, decoder = make_model(0), make_model(1, hidden_size=12, tied_embeddings=True)
    hidden, wide = (jnp.asarray(rng.normal(size=(3, 7, size)), jnp.float32) for size in (12, 24))
    tokens = jnp.asarray(rng.integers(0, CONFIG.vocab_size, (3, 7)), jnp.int32)
    return decoder, hidden, tokens, full, wide


def whole_loss(terms, counted, losses):
    nll, kl = (jnp.sum(jnp.where(counted, x, 0.0)) for x in losses)
    return terms.cross_entropy_weight * nll + terms.kl_weight * kl


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_chunks_give_the_formula_and_its_gradients(case, chunk):
    decoder, hidden, tokens, full, wide = case
    terms = Terms(0.7, 0.4, TEMPERATURE, chunk)
    counted = jnp.arange(21).reshape(3, 7) % 3 > 0

    def ours(decoder, hidden):
        return 2.5 * answer_losses(terms, decoder, hidden, tokens, counted, (full, wide)).loss

    def theirs(decoder, hidden):
        losses = by_formula(decoder, hidden, tokens, full, wide)
        return 2.5 * whole_loss(terms, counted, losses)

    found, expected = (
        jax.value_and_grad(f, argnums=(0, 1))(decoder, hidden) for f in (ours, theirs)
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    nll, kl = by_formula(decoder, hidden, tokens, full, wide)
    sums = answer_losses(terms, decoder, hidden, tokens, counted, (full, wide))
    np.testing.assert_allclose(sums.cross_entropy, jnp.sum(jnp.where(counted, nll, 0)), rtol=1e-5)
    np.testing.assert_allclose(sums.kl, jnp.sum(jnp.where(counted, kl, 0)), rtol=1e-5)
    alone = token_losses(decoder, hidden, tokens, chunk)
    np.testing.assert_allclose(alone, nll, atol=2e-6)


def test_gradients_in_bfloat16_are_the_formula_s_but_for_two_roundings():
    """Nothing but the slope along the logits is rounded, and the hidden states' gradient itself.

    To 8 bits, hence by at most 2^-8 each: that bounds every entry's error by what the slopes'
    errors can add up to. The logits are so large, and so many chunks have gradients of one sign,
    that rounded logits or a rounded sum over chunks would exceed it.
    """
    rng = np.random.default_rng(0)
    decoder, full = (
        dataclasses.replace(m, config=dataclasses.replace(m.config, dtype="bfloat16"))
        for m in (make_model(1, hidden_size=12, tied_embeddings=True), make_model(0))
    )
    hidden, wide = (
        jnp.asarray(rng.uniform(4, 24, size=(2, 64, size)), jnp.bfloat16) for size in (12, 24)
    )
    tokens = jnp.asarray(rng.integers(0, CONFIG.vocab_size, (2, 64)), jnp.int32)
    counted = jnp.ones(tokens.shape, bool)
    terms = Terms(0.7, 0.4, TEMPERATURE, 1)
    kernel, other = (
        unembedding(m).astype(jnp.bfloat16).astype(jnp.float32) for m in (decoder, full)
    )

    def ours(decoder, hidden):
        return answer_losses(terms, decoder, hidden, tokens, counted, (full, wide)).loss

    def theirs(logits):
        losses = by_logits(logits, tokens, jnp.einsum("brc,cv->brv", wide, other))
        return whole_loss(terms, counted, losses)

    model, found = jax.grad(ours, argnums=(0, 1))(decoder, hidden)
    slope = jax.grad(theirs)(jnp.einsum("brd,dv->brv", hidden, kernel))
    rounding, noise = 2.0**-8, 1e-5
    for got, sums, left, right, roundings in (
        (unembedding(model), "brd,brv->dv", hidden.astype(jnp.float32), slope, 1),
        (found, "brv,dv->brd", slope, kernel, 2),
    ):
        most = roundings * rounding * jnp.einsum(sums, jnp.abs(left), jnp.abs(right)) + noise
        error = jnp.abs(got.astype(jnp.float32) - jnp.einsum(sums, left, right))
        assert jnp.all(error <= most), float(jnp.max(error / most))
    assert (unembedding(model).dtype, found.dtype) == (jnp.float32, jnp.bfloat16)


def test_the_target_receives_no_gradient(case):
    decoder, hidden, tokens, full, wide = case

    def loss(full, wide):
        terms = Terms(0.0, 1.0, 1.0, 4)
        counted = jnp.ones(tokens.shape, bool)
        return answer_losses(terms, decoder, hidden, tokens, counted, (full, wide)).loss

    for leaf in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(full, wide)):
        assert not np.any(leaf)


def test_logits_of_a_large_vocabulary_never_exist_as_a_whole():
    rows, slots, chunk, vocabulary = 2, 512, 32, 128_256
    shapes = [
        abstract(dataclasses.replace(CONFIG, hidden_size=size, vocab_size=vocabulary), "float32")
        for size in (16, 24)
    ]
    tokens = jax.ShapeDtypeStruct((rows, slots), "int32")
    hiddens = [jax.ShapeDtypeStruct((rows, slots, size), "float32") for size in (16, 24)]

    def loss(decoder, full, hidden, wide, tokens):
        terms = Terms(1.0, 1.0, 1.0, chunk)
        counted = jnp.ones(tokens.shape, bool)
        return answer_losses(terms, decoder, hidden, tokens, counted, (full, wide)).loss

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))
    compiled = step.lower(*shapes, *hiddens, tokens).compile()
    for shape in re.findall(r"f32\[([\d,]+)\]", compiled.as_text()):
        sizes = [int(size) for size in shape.split(",")]
        if vocabulary in sizes:
            assert np.prod(sizes) <= max(rows * chunk, 24) * vocabulary, shape
    whole = 4 * rows * slots * vocabulary
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2
