"""Losses over chunks of logits: equal to the plain formula, and never all of them there."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.model.transformer import abstract, unembed
from overfill_jax.training.losses import token_losses
from tests.builders import CONFIG, make_model

TEMPERATURE = 1.7


def by_formula(model, hidden, tokens, target, target_hidden):
    """Negative log-likelihood and KL(target || model) * T^2, written out over all logits."""
    log_p = jax.nn.log_softmax(unembed(model, hidden))
    q = jax.nn.softmax(unembed(target, target_hidden) / TEMPERATURE)
    cooled = jax.nn.log_softmax(unembed(model, hidden) / TEMPERATURE)
    nll = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    return nll, TEMPERATURE**2 * jnp.sum(q * (jnp.log(q) - cooled), axis=-1)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    full, decoder = make_model(0), make_model(1, hidden_size=12, tied_embeddings=True)
    hidden, wide = (jnp.asarray(rng.normal(size=(3, 7, size)), jnp.float32) for size in (12, 24))
    tokens = jnp.asarray(rng.integers(0, CONFIG.vocab_size, (3, 7)), jnp.int32)
    return decoder, hidden, tokens, full, wide


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_chunks_give_the_formula_and_its_gradients(case, chunk):
    decoder, hidden, tokens, full, wide = case

    def ours(decoder, hidden, full, wide):
        return token_losses(decoder, hidden, tokens, chunk, (full, wide), TEMPERATURE)

    def theirs(decoder, hidden, full, wide):
        return by_formula(decoder, hidden, tokens, full, wide)

    def weighted(losses):
        return lambda *inputs: sum(
            jnp.sum(jnp.sin(jnp.arange(21.0).reshape(3, 7)) * x) for x in losses(*inputs)
        )

    inputs = decoder, hidden, full, wide
    for found, expected in zip(ours(*inputs), theirs(*inputs), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    gradients = [jax.grad(weighted(f), argnums=(0, 1))(*inputs) for f in (ours, theirs)]
    for found, expected in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(found, expected, atol=3e-5)


def test_the_target_receives_no_gradient(case):
    decoder, hidden, tokens, full, wide = case

    def kl(full, wide):
        return jnp.sum(token_losses(decoder, hidden, tokens, 4, (full, wide), 1.0)[1])

    for leaf in jax.tree.leaves(jax.grad(kl, argnums=(0, 1))(full, wide)):
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
        return sum(map(jnp.sum, token_losses(decoder, hidden, tokens, chunk, (full, wide), 1.0)))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))
    compiled = step.lower(*shapes, *hiddens, tokens).compile()
    for shape in re.findall(r"f32\[([\d,]+)\]", compiled.as_text()):
        sizes = [int(size) for size in shape.split(",")]
        if vocabulary in sizes:
            assert np.prod(sizes) <= max(rows * chunk, 24) * vocabulary, shape
    whole = 4 * rows * slots * vocabulary
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2
