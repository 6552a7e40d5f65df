"""From a decoder's folder to one with integers, and the answers that it writes."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from overfill_jax.errors import InputError
from overfill_jax.inference import quantise
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.inference.serving_model import extend, lay_out, logits_of, prefill
from overfill_jax.inference.settings import load_assistant
from overfill_jax.model import quantised
from overfill_jax.model.quantised import Quantised, Scheme, quantise_model
from overfill_jax.weights.folders import (
    check_pair,
    load_any_model,
    load_fingerprint,
    load_model,
    load_origin,
    load_scheme,
    save_model,
)
from overfill_jax.weights.origin import Origin
from tests.builders import make_model

ORIGIN = Origin("0123456789abcdef", first_token="full")


@pytest.fixture
def config():
    return default.get_config()


@pytest.fixture
def workdir(tmp_path):
    save_model(tmp_path / "decoder", make_model(1), None, ORIGIN)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 8)])
def test_a_folder_with_integers_gives_what_was_quantised(workdir, config, bits, group, caplog):
    config.quantise.bits, config.quantise.group = bits, group
    with caplog.at_level(logging.INFO, "absl"):
        quantise.run(config, workdir)
    target = workdir / "decoder_int8"
    assert load_scheme(target) == Scheme(bits, group)
    assert load_origin(target) == ORIGIN
    found, expected = load_any_model(target), quantise_model(make_model(1), Scheme(bits, group))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(found.params["unembed"]["kernel"], Quantised)
    narrow = load_any_model(target, "bfloat16")
    assert {str(x.dtype) for x in jax.tree.leaves(narrow.params)} == {"bfloat16", f"int{bits}"}
    assert "mlp/down: " in caplog.text and "unembed: " in caplog.text
    quantise.run(config, workdir)  # again: it may replace its own


def test_errors_are_shares_of_the_weights():
    model = make_model(tied_embeddings=True)
    found = {
        bits: quantise.errors(model, quantise_model(model, Scheme(bits, 0))) for bits in (8, 4)
    }
    assert len(found[8]) == 8
    for name, error in found[8].items():
        assert 0.001 < error < 0.02, name
        assert 5 * error < found[4][name] < 0.3, name


def test_what_cannot_be_quantised_is_named(workdir, config):
    for settings, message in (
        ({"bits": 2}, "quantise.bits: found 2, expected 8 or 4"),
        ({"group": 7}, "quantise.group: found 7, expected a divisor of hidden_size, 24"),
        ({"model": "missing"}, "missing: no such folder"),
        ({"target": "."}, "holds the source"),
    ):
        changed = default.get_config()
        changed.quantise.update(settings)
        with pytest.raises(InputError, match=message):
            quantise.run(changed, workdir)
    assert [path.name for path in workdir.iterdir()] == ["decoder"]


def test_a_device_that_cannot_run_it_is_named(workdir, config, monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no such type")

    quantise.run(config, workdir)
    monkeypatch.setattr(quantised, "product", refuse)
    with pytest.raises(InputError, match=r"quantise.bits: cpu cannot run int8 \(no such type\)"):
        quantise.run(config, workdir)
    config.generate.full = config.generate.decoder = "decoder_int8"
    with pytest.raises(InputError, match=r"generate.full: cpu cannot run int8 \(no such type\)"):
        load_assistant(config, workdir, rows=1)


def test_a_dtype_that_is_none_is_named_before_the_device_is_tried(workdir, config):
    quantise.run(config, workdir)
    config.generate.full = config.generate.decoder = "decoder_int8"
    config.generate.dtype = "bf16"
    message = "generate.dtype is 'bf16', expected one of float32"
    with pytest.raises(InputError, match=message):
        quantise.run(config, workdir)
    with pytest.raises(InputError, match=message):
        load_assistant(config, workdir, rows=1)


def test_a_full_model_in_integers_is_still_the_one_that_a_decoder_was_trained_behind(
    workdir, config
):
    save_model(workdir / "full", make_model(0), None)
    identity = load_fingerprint(workdir / "full")
    save_model(workdir / "decoder", make_model(1), None, Origin(identity, first_token="full"))
    config.quantise.model, config.quantise.target = "full", "full_int8"
    quantise.run(config, workdir)
    check_pair(workdir / "full_int8", workdir / "decoder", "full")
    save_model(workdir / "full", make_model(2), None)
    quantise.run(config, workdir)
    with pytest.raises(InputError, match="trained behind another full model"):
        check_pair(workdir / "full_int8", workdir / "decoder", "full")


@pytest.mark.slow
def test_who_needs_the_weights_themselves_is_told(workdir, config):
    quantise.run(config, workdir)
    with pytest.raises(InputError, match="decoder_int8: holds quantised weights"):
        load_model(workdir / "decoder_int8")
    path = workdir / "decoder_int8" / "config.json"
    broken = json.loads(path.read_text()) | {"quantised": {"bits": 8}}
    path.write_text(json.dumps(broken))
    with pytest.raises(InputError, match=r"config.json: quantised is not understood"):
        load_any_model(workdir / "decoder_int8")


@pytest.mark.parametrize("cache", ["", "int8"])
def test_int8_answers_are_nearly_the_same(full, prompts, cache):
    """By logits: of random models, an answer is another one from its first other token on."""
    quantised = quantise_model(full, Scheme(8, 0))
    expected = Generator(full, full, "full", (), 0).generate(prompts, GREEDY, 24, 6)
    found = Generator(full, quantised, "full", (), 0, cache=cache).generate(prompts, GREEDY, 24, 6)
    assert [answer.tokens[0] for answer in found] == [answer.tokens[0] for answer in expected]
    same = np.mean([a.tokens[:4] == b.tokens[:4] for a, b in zip(found, expected, strict=True)])
    assert same >= 0.5
    assert "int8" in {str(leaf.dtype) for leaf in jax.tree.leaves(quantised.params)}


def test_an_int8_cache_is_near_and_unknown_ones_are_refused(full, prompts):
    model = lay_out(full)
    tokens = jnp.array([prompts[1][:20]])
    _, cache = jax.jit(prefill, static_argnums=3)(model, tokens[:, :16], jnp.array([16]), 20)
    found, expected = (
        logits_of(model, jax.jit(extend)(model, tokens[:, 16:], cache.astype(dtype))[0])
        for dtype in ("int8", "float32")
    )
    scale = np.abs(expected).max()
    assert 1e-4 * scale < np.abs(found - expected).max() < 0.1 * scale
    with pytest.raises(InputError, match="cache: found 'int4', expected 'int8' or nothing"):
        Generator(full, full, "full", (), 0, cache="int4")
    assert cache.astype("int8").key[0].values.dtype == np.int8
