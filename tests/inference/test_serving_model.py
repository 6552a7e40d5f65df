"""The model as serving reads it, against the one that training uses."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from overfill_jax import two_stage
from overfill_jax.inference import serving_cache, serving_model
from overfill_jax.inference.placement import shardings
from overfill_jax.inference.serving_cache import attend, stored
from overfill_jax.inference.serving_model import extend, lay_out, logits_of, prefill
from overfill_jax.model import flops
from overfill_jax.model.quantised import Scheme, quantise_model
from tests.builders import CONFIG, make_model

LENGTHS = jnp.array([12, 7, 1])
FAMILIES = {
    "bias and norms, untied": {},
    "tied": {"qkv_bias": False, "qk_norm": False, "tied_embeddings": True},
    "one query head a group": {"num_kv_heads": 4, "qkv_bias": False},
}


def tokens(slots):
    rng = np.random.default_rng(slots)
    return jnp.asarray(rng.integers(0, CONFIG.vocab_size, (3, slots)), jnp.int32)


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_it_computes_what_training_computes(changes):
    full = make_model(0, **changes)
    decoder = make_model(1, hidden_size=16, intermediate_size=24, **changes)
    first, cache = jax.jit(two_stage.prefill, static_argnums=3)(full, tokens(12), LENGTHS, 5)
    more, _ = jax.jit(two_stage.extend)(decoder, tokens(5), cache)

    reader, writer = lay_out(full), lay_out(decoder)
    found, cache = jax.jit(prefill, static_argnums=3)(reader, tokens(12), LENGTHS, 17, LENGTHS - 1)
    np.testing.assert_allclose(logits_of(reader, found)[:, 0], first, atol=1e-5)
    at_once, _ = jax.jit(extend)(writer, tokens(5), cache)
    np.testing.assert_allclose(logits_of(writer, at_once), more, atol=1e-5)
    for step in range(5):
        hidden, cache = jax.jit(extend)(writer, tokens(5)[:, step : step + 1], cache)
        cache = dataclasses.replace(cache, lengths=cache.lengths + 1)
        np.testing.assert_allclose(logits_of(writer, hidden)[:, 0], more[:, step], atol=1e-5)


@pytest.mark.parametrize("slots", [1, 12])
def test_the_one_token_that_is_wanted_is_as_among_all(slots):
    """Of a prompt, and of more tokens behind it; what they leave in the cache is the same."""
    model, wanted = lay_out(make_model()), jnp.minimum(jnp.array([11, 6, 0]), slots - 1)
    whole, cache = jax.jit(prefill, static_argnums=3)(model, tokens(slots), LENGTHS, 40)
    alone, same = jax.jit(prefill, static_argnums=3)(model, tokens(slots), LENGTHS, 40, wanted)
    compare_one(whole, alone, wanted, cache, same)
    more = tokens(slots + 1)[:, :slots]
    whole, after = jax.jit(extend, static_argnums=3)(model, more, cache, 30)
    alone, same = jax.jit(extend, static_argnums=3)(model, more, cache, 30, wanted)
    compare_one(whole, alone, wanted, after, same)


def compare_one(whole, alone, wanted, cache, same):
    assert alone.shape == (3, 1, CONFIG.hidden_size)
    for row, token in enumerate(wanted):
        np.testing.assert_allclose(alone[row, 0], whole[row, token], atol=1e-5)
    for left, expected in zip(jax.tree.leaves(same), jax.tree.leaves(cache), strict=True):
        np.testing.assert_allclose(left, expected, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_flops_of_reading_are_the_compilers():
    model = lay_out(make_model(0, hidden_size=256, intermediate_size=64))
    counted = {}
    for name, wanted in (("all", None), ("last", LENGTHS - 1)):
        step = jax.jit(prefill, static_argnums=3).lower(model, tokens(12), LENGTHS, 12, wanted)
        counted[name] = step.compile().cost_analysis()["flops"]
    c = model.config
    whole = flops.products(c, 36) + flops.attention(c, 3 * 78) + flops.logits(c, 3)
    left_out = whole - flops.reading(c, 3, 12)
    assert left_out == pytest.approx(counted["all"] - counted["last"], rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_token_sees_the_same_on_every_platform(monkeypatch, dtype):
    draw = np.random.default_rng(0).standard_normal
    query = jnp.asarray(draw((3, 1, 2, 3, 8)), jnp.float32)
    key, value = (stored(jnp.asarray(draw((3, 2, 20, 8)), jnp.float32), dtype) for _ in range(2))
    near, products_near = attend_and_count(query, key, value)
    monkeypatch.setattr(serving_cache, "NEAR", 0)
    far, products_far = attend_and_count(query, key, value)
    assert (products_near, products_far) == (3 + 1, 1 + 1)  # keys by themselves for each of three
    monkeypatch.setattr(serving_cache, "platform", lambda: "tpu")
    for on_cpu in (near, far):
        np.testing.assert_allclose(attend(query, key, value, LENGTHS, 16), on_cpu, atol=1e-6)


def attend_and_count(*arguments):
    """What is found, and by how many products."""
    program = str(jax.make_jaxpr(lambda: attend(*arguments, LENGTHS, 16))())
    return attend(*arguments, LENGTHS, 16), program.count("dot_general")


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_kernels_are_multiplied_alike_on_every_platform(monkeypatch, changes):
    """Written in two ways, of which XLA turns neither into the other."""
    model, found, orders = lay_out(make_model(**changes)), {}, {}
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(serving_model, "platform", lambda platform=platform: platform)
        run = jax.jit(lambda: prefill(model, tokens(12), LENGTHS, 17, LENGTHS - 1)[0])
        found[platform] = jax.jit(lambda x: logits_of(model, x))(run())
        text = run.lower().compile().as_text()
        orders[platform] = sorted(re.findall(r"f32\[(\d+,\d+)\]\S* dot\(", text))
    np.testing.assert_allclose(found["cpu"], found["tpu"], atol=1e-5)
    turned = [",".join(reversed(shape.split(","))) for shape in orders["tpu"]]
    assert orders["cpu"] == sorted(turned) != orders["tpu"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("scheme", "of_outputs", "of_inputs"),
    [
        (None, P("tensor"), P(None, "tensor")),
        (Scheme(8, 0), P(None, None, "tensor"), P(None, "tensor")),
        (Scheme(8, 4), P(None, None, "tensor"), P("tensor")),
    ],
)
def test_kernels_are_split_between_heads_and_within_the_mlp(scheme, of_outputs, of_inputs):
    model = make_model() if scheme is None else quantise_model(make_model(), scheme)
    layer = serving_model._layer(model.params["layers"], 0, dtype="float32", blocks=2)
    mesh = AbstractMesh((1, 1, 2), ("data", "fsdp", "tensor"))
    split = jax.tree.unflatten(jax.tree.structure(layer), shardings(layer, mesh))
    for name in ("qkv", "gate_up", "out", "down"):
        kernel = getattr(split, name)
        where = kernel if scheme is None else kernel.values
        assert where.spec == (of_outputs if name in ("qkv", "gate_up") else of_inputs), name


@pytest.mark.parametrize("scheme", [None, Scheme(8, 0)])
def test_logits_are_in_float32(scheme):
    model = make_model(dtype="bfloat16")
    served = lay_out(model if scheme is None else quantise_model(model, scheme))
    hidden = jnp.ones((3, 1, CONFIG.hidden_size), jnp.bfloat16)
    assert logits_of(served, hidden).dtype == jnp.float32


def test_a_cache_that_grows_holds_what_it_held():
    reader = lay_out(make_model())
    _, cache = jax.jit(prefill, static_argnums=3)(reader, tokens(12), LENGTHS, 13)
    before = jax.tree.map(jnp.copy, cache)
    grown = cache.grow(40)
    assert cache.key[0].values.is_deleted() and cache.value[-1].values.is_deleted()
    assert grown.slots == 40
    for old, new in zip(
        *(jax.tree.leaves((one.key, one.value)) for one in (before, grown)), strict=True
    ):
        np.testing.assert_array_equal(new[:, :, :13], old)
        assert not new[:, :, 13:].any()
