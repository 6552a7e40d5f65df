"""Channel importance against plain numpy, the reference's golden values and other batchings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.model.transformer import Model, hidden_states, observed_statistics
from overfill_jax.pruning.importance import (
    CalibrationBatch,
    Importance,
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
    lengths = np.array([12, 4, 4, 1, 12], np.int32)
    tokens = rng.integers(1, CONFIG.vocab_size, (5, 12)).astype(np.int32)
    starts = np.array([0, 2, 3, 0, 11], np.int32)
    return Samples(tokens, lengths, starts, np.zeros(5, np.int32))


@pytest.fixture(scope="module")
def activations(model, samples):
    """Of every sample, unpadded and on its own: all observed activations, [L, T, C] each."""
    rows = []
    for row, length in zip(samples.tokens, samples.lengths, strict=True):
        tokens = jnp.asarray(row[None, :length])
        seen = observed_statistics(model, tokens, jnp.ones_like(tokens), lambda _, a: a)
        rows.append({name: np.asarray(a[:, 0], np.float64) for name, a in seen.items()})
    return rows


def by_hand(model, samples, activations, statistic, power):
    """The definition, one row at a time, in numpy."""
    norms = jax.device_get(weight_norms(model.params)) | {"turn": 1.0}
    totals = dict.fromkeys(("hidden", "intermediate", "heads", "layers"), 0.0)
    streams = []
    for row, start in zip(activations, samples.starts, strict=True):
        scores = {}
        stream = row["stream"][:, start:]
        streams.append(stream**2 / (stream**2).mean(axis=2, keepdims=True))
        for name, activation in row.items():
            if name == "stream":
                continue
            counted = activation[:, start:]
            if statistic == "signed_mean":
                score = np.abs(counted.mean(1))
            elif statistic == "abs_mean":
                score = np.abs(counted).mean(1)
            else:
                score = np.sqrt((counted**2).mean(1))
            scores[name] = score * norms[name] if statistic == "weighted" else score
        by_head = scores["mixed"].reshape(CONFIG.num_layers, CONFIG.num_heads, CONFIG.head_dim)
        totals["hidden"] += (scores["attention_input"] + scores["mlp_input"]).sum(0) ** power
        totals["intermediate"] += scores["inner"] ** power
        totals["heads"] += by_head.sum(2) ** power
        totals["layers"] += scores["turn"][:, 0] ** power
    energy = np.concatenate(streams, axis=1).mean(axis=1)
    return {name: total ** (1 / power) for name, total in totals.items()} | {"energy": energy}


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(("sample_norm", "power"), [("l1", 1), ("l2", 2)])
def test_equals_the_definition(model, samples, activations, statistic, sample_norm, power):
    importance = measure_importance(model, samples.batches(5), statistic, sample_norm)
    expected = by_hand(model, samples, activations, statistic, power)
    found = importance.arrays()
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        np.testing.assert_allclose(found[name], scores, rtol=1e-4)


def test_weight_norms_belong_to_what_reads_the_channel(model):
    layers = jax.device_get(model.params["layers"])
    norms = weight_norms(model.params)
    readers = [layers["attention"][name]["kernel"][1, 5] for name in ("query", "key", "value")]
    expected = np.sqrt(sum(np.sum(r**2) for r in readers))
    np.testing.assert_allclose(norms["attention_input"][1, 5], expected, rtol=1e-5)
    down = layers["mlp"]["down"]["kernel"][2, 7]
    np.testing.assert_allclose(norms["inner"][2, 7], np.linalg.norm(down), rtol=1e-5)
    out = layers["attention"]["out"]["kernel"][2, 3, 5]  # head 3, channel 5 of it
    channel = 3 * CONFIG.head_dim + 5
    np.testing.assert_allclose(norms["mixed"][2, channel], np.linalg.norm(out), rtol=1e-5)


def test_the_turn_is_that_of_the_stream(model, samples, activations):
    """From the inputs of a model without its last layer, and with it."""
    tokens = jnp.asarray(samples.tokens[:1, : samples.lengths[0]])
    places = jnp.arange(tokens.shape[1])[None]
    streams = []
    for count in (1, 2):
        scale = model.params["final_norm"]["scale"]
        layers = jax.tree.map(lambda x, count=count: x[:count], model.params["layers"])
        config = dataclasses.replace(CONFIG, num_layers=count)
        part = Model(config, model.params | {"layers": layers})
        hidden, _, _ = hidden_states(part, tokens, places, jnp.ones_like(tokens))
        streams.append(np.asarray(hidden / scale, np.float64)[0])  # but for its length
    before, after = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in streams)
    expected = 1 - np.sum(before * after, axis=1)
    np.testing.assert_allclose(activations[0]["turn"][1, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_does_not_depend_on_the_batch_size(model, samples, batch_size):
    whole = measure_importance(model, samples.batches(5), "signed_mean", "l2")
    parts = measure_importance(model, samples.batches(batch_size), "signed_mean", "l2")
    for name, scores in whole.arrays().items():
        np.testing.assert_allclose(parts.arrays()[name], scores, rtol=1e-5)
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
    jax.tree.map(np.testing.assert_array_equal, again.arrays(), importance.arrays())
    assert again.arrays().keys() == {"hidden", "intermediate", "heads", "layers", "energy"}
    assert again.provenance == importance.provenance
    with pytest.raises(InputError, match="another model: fingerprint a, expected b"):
        load_importance(path, CONFIG, "b")
    with pytest.raises(InputError, match=r"another model: shapes \(24,\)"):
        load_importance(path, dataclasses.replace(CONFIG, hidden_size=26), "a")
    with pytest.raises(InputError, match=r"shapes .*\(3, 4\), \(3,\), .*expected .*\(3, 8\)"):
        load_importance(path, dataclasses.replace(CONFIG, num_heads=8), "a")


def test_importance_of_an_earlier_version_is_of_channels_alone(tmp_path):
    path = tmp_path / "importance.npz"
    scores = {"hidden": np.ones(24, np.float32), "intermediate": np.ones((3, 40), np.float32)}
    save_importance(path, Importance(**scores, provenance={"model": "a"}))
    assert load_importance(path, CONFIG, "a").arrays().keys() == scores.keys()


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
