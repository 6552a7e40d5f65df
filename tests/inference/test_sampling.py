"""The sampler against a reference in numpy, and what a seed promises."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.inference.sampling import GREEDY, Sampling, row_keys, sample

DRAWS = 20_000
sample = jax.jit(sample)


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution to draw from, token by token down the ranks."""
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")
    order = order[: top_k or None]
    weights = np.exp(scaled[order] - scaled[order[0]])
    weights /= weights.sum()
    kept, mass = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        if mass >= top_p:
            break
        kept.append((token, weight))
        mass += weight
    probability = np.zeros(len(logits))
    for token, weight in kept:
        probability[token] = weight / mass
    return probability


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, 0, 1.0, seed=1),
        Sampling(0.5, 0, 1.0, seed=2),
        Sampling(1.3, 4, 1.0, seed=3),
        Sampling(1.0, 0, 0.7, seed=4),
        Sampling(2.0, 5, 0.6, seed=5),
        Sampling(1.0, 1, 0.9, seed=6),
        Sampling(1.0, 0, 1e-6, seed=7),
        Sampling(1.0, 1000, 1.0, seed=8),
    ],
)
def test_draws_follow_the_reference_distribution(sampling):
    logits = np.random.default_rng(0).normal(size=12).astype(np.float32) * 1.5
    expected = reference(logits, sampling.temperature, sampling.top_k, sampling.top_p)
    keys = row_keys(jnp.uint32(sampling.seed), jnp.arange(DRAWS))
    drawn = sample(jnp.tile(logits, (DRAWS, 1)), keys, 3, **sampling.limits())
    counts = np.bincount(drawn, minlength=12)
    assert not counts[expected == 0].any()
    # Pearson's statistic: its mean is the degrees of freedom, at most 11; 35 has odds of 1 in 4000.
    likely = expected > 0
    wanted = DRAWS * expected[likely]
    assert np.sum((counts[likely] - wanted) ** 2 / wanted) < 35


def test_limits_are_taken_per_row():
    logits = jax.random.normal(jax.random.key(0), (4, 50))
    keys = row_keys(jnp.uint32(0), jnp.arange(4))
    limits = {
        "temperature": jnp.array([0.0, 1.0, 1.0, 1.0]),
        "top_k": jnp.array([0, 1, 0, 0]),
        "top_p": jnp.array([1.0, 1.0, 1e-6, 1.0]),
    }
    mixed = np.stack([sample(logits, keys, step, **limits) for step in range(20)])
    best = np.argmax(logits, -1)
    assert (mixed[:, :3] == best[:3]).all()
    assert len(set(mixed[:, 3])) > 1
    # The free row draws what it would draw in a batch where nobody limits or is greedy.
    free = {"temperature": jnp.float32(1), "top_k": jnp.int32(0), "top_p": jnp.float32(1)}
    alone = np.stack([sample(logits[3:], keys[3:], step, **free) for step in range(20)])
    np.testing.assert_array_equal(mixed[:, 3], alone[:, 0])


def test_temperature_near_zero_is_greedy_and_finite():
    logits = 50 * jax.random.normal(jax.random.key(0), (3, 50))
    keys = row_keys(jnp.uint32(0), jnp.arange(3))
    for temperature in (0.0, 1e-30, 1e-3):
        drawn = sample(logits, keys, 0, **Sampling(temperature, 0, 1.0, 0).limits())
        np.testing.assert_array_equal(drawn, np.argmax(logits, -1))


def test_a_top_p_that_float32_takes_for_0_keeps_the_likeliest():
    logits = jax.random.normal(jax.random.key(0), (3, 50))
    keys = row_keys(jnp.uint32(0), jnp.arange(3))
    limits = Sampling(1.0, 0, 1e-50, 0).limits()
    drawn = np.stack([sample(logits, keys, step, **limits) for step in range(10)])
    assert (drawn == np.argmax(logits, -1)).all()


def test_keys_differ_by_seed_row_and_step():
    logits = jnp.zeros((64, 1000))
    limits = Sampling(1.0, 0, 1.0, seed=0).limits()

    def draw(seed, step):
        return np.asarray(
            sample(logits, row_keys(jnp.uint32(seed), jnp.arange(64)), step, **limits)
        )

    np.testing.assert_array_equal(draw(5, 2), draw(5, 2))
    assert (draw(5, 2) != draw(6, 2)).mean() > 0.9
    assert (draw(5, 2) != draw(5, 3)).mean() > 0.9
    assert len(set(draw(5, 2))) > 50


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("seed", -1),
        ("seed", 2**32),
        ("temperature", 1e39),  # infinite in float32
        ("temperature", "1"),
        ("top_k", 2.5),
        ("top_p", None),
        ("seed", 1.5),
    ],
)
def test_fields_out_of_range_are_named(unchecked, field, value):
    fields = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0, field: value}
    with pytest.raises(InputError, match=f"^{field} is {re.escape(repr(value))}, expected"):
        Sampling(**fields)


@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray], ids=["jax", "numpy"])
def test_numbers_of_arrays_are_numbers(unchecked, kind):
    given = Sampling(kind(0.5), kind(3), kind(0.75), kind(7))
    assert given.limits() == Sampling(0.5, 3, 0.75, 7).limits()
    assert Sampling(np.float16(0.5), 3, 0.75, 7).limits() == given.limits()


def test_greedy_needs_no_seed():
    assert GREEDY.temperature == 0
