"""Integers with scales, and products with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.inference.serving_model import extend, lay_out, logits_of, prefill
from overfill_jax.model.quantised import (
    Quantised,
    Scheme,
    product,
    quantise,
    quantise_model,
    restore,
    scheme_of,
)
from tests.builders import make_model

SCHEMES = [Scheme(8, 0), Scheme(8, 8), Scheme(4, 0), Scheme(4, 8)]


@pytest.fixture(scope="module")
def kernel():
    return jnp.asarray(np.random.default_rng(0).normal(size=(64, 3, 10)), jnp.float32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_weight_is_off_by_more_than_half_a_step(kernel, scheme):
    found = quantise(kernel, scheme)
    groups = 64 // scheme.group if scheme.group else 1
    assert found.values.shape == (groups, 64 // groups, 3, 10)
    assert found.values.dtype == f"int{scheme.bits}"
    error = np.abs(restore(found) - kernel).reshape(groups, -1, 3, 10)
    assert (error <= 0.5001 * found.scales[:, None]).all()
    assert (np.abs(found.values.astype(jnp.int8)).max(1) == 2 ** (scheme.bits - 1) - 1).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_product_is_that_of_the_restored_weights(kernel, scheme):
    found = quantise(kernel, scheme)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 64)), jnp.float32)
    expected = jnp.einsum("bti,inh->btnh", x, restore(found))
    np.testing.assert_allclose(product(x, found), expected, atol=1e-4)


def test_smaller_groups_and_more_bits_are_nearer(kernel):
    errors = [float(jnp.abs(restore(quantise(kernel, one)) - kernel).mean()) for one in SCHEMES]
    assert errors[1] < errors[0] < errors[3] < errors[2]


def test_channels_of_zeros_stay_zeros():
    found = restore(quantise(jnp.zeros((8, 4)), Scheme(4, 4)))
    assert not np.asarray(found).any()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_model_computes_with_its_restored_weights(tied, scheme):
    model = make_model(tied_embeddings=tied)
    quantised = quantise_model(model, scheme)
    is_kernel = {"is_leaf": lambda x: isinstance(x, Quantised)}
    kernels = [
        x for x in jax.tree.leaves(quantised.params, **is_kernel) if isinstance(x, Quantised)
    ]
    assert len(kernels) == 8  # query, key, value, out, gate, up, down, unembed

    restored = dict(model.params)
    restored["layers"] = jax.tree.map(
        lambda kernel, like: (
            jax.vmap(restore)(kernel).reshape(like.shape)
            if isinstance(kernel, Quantised)
            else kernel
        ),
        quantised.params["layers"],
        model.params["layers"],
        **is_kernel,
    )
    restored["unembed"] = {"kernel": restore(quantised.params["unembed"]["kernel"])}
    tokens, lengths = jnp.array([[3, 1, 4, 1], [5, 9, 0, 0]]), jnp.array([4, 2])
    found, expected = (
        run(lay_out(type(model)(model.config, params)), tokens, lengths)
        for params in (quantised.params, restored)
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    error = np.abs(found - run(lay_out(model), tokens, lengths)).max()
    assert 1e-3 < error < (0.2 if scheme.bits == 8 else 3)


@pytest.mark.parametrize(
    ("scheme", "changes", "expected"),
    [
        *((scheme, {}, scheme) for scheme in SCHEMES),
        (Scheme(8, 8), {"intermediate_size": 8}, Scheme(8, 8)),  # all the inputs of down
        (Scheme(4, 24), {"num_heads": 6, "intermediate_size": 24}, Scheme(4, 24)),  # but out's
        (Scheme(8, 32), {"hidden_size": 32, "intermediate_size": 32}, Scheme(8, 0)),  # of every one
    ],
)
def test_weights_tell_how_they_are_quantised(scheme, changes, expected):
    assert scheme_of(quantise_model(make_model(**changes), scheme).params) == expected
    assert scheme_of(make_model(**changes).params) is None


@jax.jit
def run(model, tokens, lengths):
    hidden, cache = prefill(model, tokens, lengths, 6)
    more, _ = extend(model, tokens[:, :2], cache)
    return logits_of(model, jnp.concatenate([hidden[:, :2], more], axis=1))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ((3, 0), "quantise.bits: found 3, expected 8 or 4"),
        ((4, -1), "quantise.group: found -1"),
        ((4, 16), "quantise.group: found 16, expected a divisor of hidden_size, 24"),
    ],
)
def test_schemes_that_do_not_fit_are_named(scheme, message):
    with pytest.raises(InputError, match=message):
        quantise_model(make_model(), Scheme(*scheme))
