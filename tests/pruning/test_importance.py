"""Channel importance against plain numpy, the reference's golden values and other batchings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.model.transformer import observed_statistics
from overfill_jax.pruning.importance import (
    CalibrationBatch,
    load_importance,
    measure_importance,
    save_importance,
)
from overfill_jax.pruning.samples import Samples
from overfill_jax.pruning.statistics import STATISTICS, weight_norms
from tests.builders import CONFIG, make_model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    lengths = np.array([9, 4, 7, 1, 12], np.int32)
    tokens = rng.integers(1, CONFIG.vocab_size, (5, 12)).astype(np.int32)
    starts = np.array([0, 2, 3, 0, 11], np.int32)
    return Samples(tokens, lengths, starts, np.zeros(5, np.int32))


@pytest.fixture(scope="module")
def activations(model, samples):
    """Of every sample, unpadded and on its own: all observed activations, [L, T, C] each."""
    rows = []
    for row, length in zip(samples.tokens, samples.lengths, strict=True):
        tokens = jnp.asarray(row[None, :length])
        seen = observed_statistics(model, tokens, jnp.ones_like(tokens), lambda a: a)
        rows.append({name: np.asarray(a[:, 0], np.float64) for name, a in seen.items()})
    return rows


def by_hand(model, samples, activations, statistic, power):
    """The definition, one row at a time, in numpy."""
    norms = jax.device_get(weight_norms(model.params))
    hidden = intermediate = 0.0
    for row, start in zip(activations, samples.starts, strict=True):
        scores = {}
        for name, activation in row.items():
            counted = activation[:, start:]
            if statistic == "signed_mean":
                score = np.abs(counted.mean(1))
            elif statistic == "abs_mean":
                score = np.abs(counted).mean(1)
            else:
                score = np.sqrt((counted**2).mean(1))
            scores[name] = score * norms[name] if statistic == "weighted" else score
        hidden += (scores["attention_input"] + scores["mlp_input"]).sum(0) ** power
        intermediate += scores["inner"] ** power
    return hidden ** (1 / power), intermediate ** (1 / power)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(("sample_norm", "power"), [("l1", 1), ("l2", 2)])
def test_equals_the_definition(model, samples, activations, statistic, sample_norm, power):
    importance = measure_importance(model, samples.batches(5), statistic, sample_norm)
    hidden, intermediate = by_hand(model, samples, activations, statistic, power)
    np.testing.assert_allclose(importance.hidden, hidden, rtol=1e-4)
    np.testing.assert_allclose(importance.intermediate, intermediate, rtol=1e-4)


def test_weight_norms_belong_to_what_reads_the_channel(model):
    layers = jax.device_get(model.params["layers"])
    norms = weight_norms(model.params)
    readers = [layers["attention"][name]["kernel"][1, 5] for name in ("query", "key", "value")]
    expected = np.sqrt(sum(np.sum(r**2) for r in readers))
    np.testing.assert_allclose(norms["attention_input"][1, 5], expected, rtol=1e-5)
    down = layers["mlp"]["down"]["kernel"][2, 7]
    np.testing.assert_allclose(norms["inner"][2, 7], np.linalg.norm(down), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_does_not_depend_on_the_batch_size(model, samples, batch_size):
    whole = measure_importance(model, samples.batches(5), "signed_mean", "l2")
    parts = measure_importance(model, samples.batches(batch_size), "signed_mean", "l2")
    np.testing.assert_allclose(parts.hidden, whole.hidden, rtol=1e-5)
    np.testing.assert_allclose(parts.intermediate, whole.intermediate, rtol=1e-5)
    assert parts.provenance == whole.provenance
    assert parts.provenance["samples"] == 5
    assert parts.provenance["tokens"] == int(np.sum(samples.lengths - samples.starts))


def test_what_stands_in_the_padding_does_not_matter(model, samples):
    padded = np.arange(12) >= samples.lengths[:, None]
    junk = dataclasses.replace(samples, tokens=np.where(padded, 3, samples.tokens))
    one = measure_importance(model, samples.batches(5), "rms", "l2")
    other = measure_importance(model, junk.batches(5), "rms", "l2")
    np.testing.assert_array_equal(one.hidden, other.hidden)


def test_unknown_settings_and_empty_text_are_refused(model, samples):
    with pytest.raises(InputError, match=r"statistic: found 'max', expected one of"):
        measure_importance(model, samples.batches(5), "max", "l2")
    with pytest.raises(InputError, match=r"sample_norm: found 'l3'"):
        measure_importance(model, samples.batches(5), "rms", "l3")
    with pytest.raises(InputError, match="no sample"):
        measure_importance(model, [], "rms", "l2")


def test_saved_importance_belongs_to_its_model(model, samples, tmp_path):
    importance = measure_importance(model, samples.batches(5), "rms", "l2")
    importance = dataclasses.replace(importance, provenance=importance.provenance | {"model": "a"})
    path = tmp_path / "importance.npz"
    save_importance(path, importance)
    again = load_importance(path, CONFIG, "a")
    np.testing.assert_array_equal(again.hidden, importance.hidden)
    assert again.provenance == importance.provenance
    with pytest.raises(InputError, match="another model: fingerprint a, expected b"):
        load_importance(path, CONFIG, "b")
    with pytest.raises(InputError, match=r"another model: shapes \(24,\)"):
        load_importance(path, dataclasses.replace(CONFIG, hidden_size=26), "a")


def test_a_file_that_is_no_importance_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; the calibrate stage writes it"):
        load_importance(tmp_path / "importance.npz", CONFIG, "a")
    for content in (b"", b"PK\x03\x04 half a zip", b"text"):
        (tmp_path / "importance.npz").write_bytes(content)
        with pytest.raises(InputError, match="not an importance file"):
            load_importance(tmp_path / "importance.npz", CONFIG, "a")


@pytest.mark.parametrize("provenance", ["{}", "[]", "3", "not JSON"])
def test_a_provenance_that_names_no_model_is_refused(tmp_path, provenance):
    path = tmp_path / "importance.npz"
    scores = np.ones(CONFIG.hidden_size), np.ones((CONFIG.num_layers, CONFIG.intermediate_size))
    np.savez(path, hidden=scores[0], intermediate=scores[1], provenance=np.array(provenance))
    with pytest.raises(InputError, match=r"importance\.npz: not an importance file"):
        load_importance(path, CONFIG, "a")


def test_a_lone_array_is_no_importance(tmp_path):
    with (tmp_path / "importance.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputError, match=r"importance\.npz: not an importance file"):
        load_importance(tmp_path / "importance.npz", CONFIG, "a")


def test_scores_that_are_not_finite_are_not_measured(model, samples):
    scale = model.params["layers"]["mlp_norm"]["scale"].at[0, 3].set(np.nan)
    layers = model.params["layers"] | {"mlp_norm": {"scale": scale}}
    broken = dataclasses.replace(model, params=model.params | {"layers": layers})
    with pytest.raises(InputError, match="activations overflow in float32"):
        measure_importance(broken, samples.batches(5), "rms", "l2")


def test_a_batch_without_padding_counts_every_token(model, samples):
    tokens = samples.tokens
    every = np.ones(tokens.shape, bool)
    importance = measure_importance(
        model, [CalibrationBatch(tokens, every, every)], "signed_mean", "l2"
    )
    assert importance.provenance["tokens"] == tokens.size
