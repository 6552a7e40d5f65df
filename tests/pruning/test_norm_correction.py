"""Norms behind a cut against those of the full model, whose channels they kept."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.model.transformer import hidden_states, observed_statistics
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.pruning.importance import CalibrationBatch, Importance, measure_importance
from overfill_jax.pruning.norm_correction import correct_norms, measured_energy, norm_factors
from tests.builders import CONFIG, make_model

EVERY = np.tile(np.arange(CONFIG.intermediate_size), (CONFIG.num_layers, 1))
KEPT = Kept(np.array([20, 1, 5, 3, 8, 13, 2, 21]), EVERY)  # the cut takes them in order
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 11)).astype(np.int32)
BATCH = CalibrationBatch(TOKENS, np.ones(TOKENS.shape, bool), np.ones(TOKENS.shape, bool))


def with_loud_channels(model):
    """What is kept has 3 times the amplitude of the rest, from whatever adds to the stream."""
    loud = np.where(np.isin(np.arange(CONFIG.hidden_size), KEPT.hidden), 3.0, 1.0)
    layers = jax.tree.map(lambda x: x, model.params["layers"])
    for part, name in (("attention", "out"), ("mlp", "down")):
        layers[part][name] = {"kernel": layers[part][name]["kernel"] * loud}
    embedding = {"embedding": model.params["embed"]["embedding"] * loud}
    params = model.params | {"layers": layers, "embed": embedding}
    return dataclasses.replace(model, params=params)


@jax.jit
def norm_outputs(model):
    """Of all norms of the stream: [2 L, B, T, D], and the final one's [B, T, D]."""
    segments = jnp.ones_like(TOKENS)
    seen = observed_statistics(model, jnp.asarray(TOKENS), segments, lambda _, a: a)
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    final, _, _ = hidden_states(model, jnp.asarray(TOKENS), positions, segments)
    return jnp.stack([*seen["attention_input"], *seen["mlp_input"], final])


def pruned_and_corrected(model):
    importance = measure_importance(model, [BATCH], "signed_mean", "l2")
    pruned = cut(model, KEPT)
    return pruned, correct_norms(pruned, norm_factors(measured_energy(importance), KEPT))


def test_exact_where_every_token_has_the_same_share_of_energy():
    """Nothing is added to the stream, so that all norms read the embedding."""
    model = make_model()
    embedding = model.params["embed"]["embedding"]
    stays = np.isin(np.arange(CONFIG.hidden_size), KEPT.hidden)
    for part, energy in ((stays, 5.0), (~stays, 2.0)):
        size = jnp.linalg.norm(embedding * part, axis=1, keepdims=True) / energy
        embedding = jnp.where(part, embedding / size, embedding)
    silent = jax.tree.map(lambda x: x, model.params)
    silent["embed"] = {"embedding": embedding * jnp.arange(1, len(embedding) + 1)[:, None]}
    for part, name in (("attention", "out"), ("mlp", "down")):
        kernel = silent["layers"][part][name]["kernel"]
        silent["layers"][part][name] = {"kernel": jnp.zeros_like(kernel)}
    model = dataclasses.replace(model, params=silent)
    wanted = norm_outputs(model)[..., np.sort(KEPT.hidden)]
    pruned, corrected = pruned_and_corrected(model)
    np.testing.assert_allclose(norm_outputs(corrected), wanted, rtol=1e-4, atol=1e-5)
    share = (25 / 8) / (29 / 24)
    np.testing.assert_allclose(norm_outputs(pruned) * share**0.5, wanted, rtol=1e-4, atol=1e-5)


def test_nearer_to_the_full_model_in_every_norm():
    """Every norm by itself, on what that of the full model reads."""
    model = with_loud_channels(make_model())
    segments = jnp.ones_like(TOKENS)
    streams = observed_statistics(model, jnp.asarray(TOKENS), segments, lambda _, a: a)["stream"]

    def normed(scales, streams):
        return streams * scales[:, None, None] / np.sqrt((streams**2).mean(-1, keepdims=True))

    channels = np.sort(KEPT.hidden)
    wanted = normed(scales_of(model), streams)[..., channels]
    far, near = (
        np.square(normed(scales_of(one), streams[..., channels]) - wanted).mean(axis=(1, 2, 3))
        for one in pruned_and_corrected(model)
    )
    assert np.all(near < 0.3 * far), near / far


def scales_of(model):
    """Those of the norms in the order of the stream."""
    layers = model.params["layers"]
    both = zip(layers["attention_norm"]["scale"], layers["mlp_norm"]["scale"], strict=True)
    return jnp.stack([*itertools.chain(*both), model.params["final_norm"]["scale"]])


def test_norms_in_their_places():
    energy = np.ones((2 * CONFIG.num_layers + 1, CONFIG.hidden_size), np.float32)
    energy[:, KEPT.hidden] = np.arange(2, 9)[:, None]
    expected = np.sqrt([e / (e / 3 + 2 / 3) for e in range(2, 9)])
    kept = dataclasses.replace(KEPT, intermediate=EVERY[:2], layers=np.array([0, 2]))
    factors = norm_factors(energy, kept)
    np.testing.assert_allclose(factors["attention_norm"], expected[[0, 4]], rtol=1e-6)
    np.testing.assert_allclose(factors["mlp_norm"], expected[[1, 5]], rtol=1e-6)
    np.testing.assert_allclose(factors["final_norm"], expected[6], rtol=1e-6)


def test_a_whole_stream_needs_no_correction():
    whole = dataclasses.replace(KEPT, hidden=np.arange(CONFIG.hidden_size))
    energy = np.random.default_rng(1).random((7, CONFIG.hidden_size))
    assert all(np.all(np.float32(f) == 1) for f in norm_factors(energy, whole).values())


def test_only_scales_of_the_stream_change_and_keep_their_dtype():
    model = jax.tree.map(lambda x: x.astype("bfloat16"), cut(make_model(), KEPT))
    factors = norm_factors(np.arange(1.0, 7 * 24 + 1).reshape(7, 24), KEPT)
    after = correct_norms(model, factors)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(model.params),
            jax.tree.leaves(after.params),
            strict=True,
        )
        if np.any(old != new)
    }
    names = {"layers/attention_norm/scale", "layers/mlp_norm/scale", "final_norm/scale"}
    assert changed == names
    assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype("bfloat16")}


def test_energy_that_was_not_measured_is_asked_for():
    scores = np.ones(24, np.float32), np.ones((3, 40), np.float32)
    for importance in (None, Importance(*scores, {})):
        with pytest.raises(InputError, match=r"prune\.norm_correction: found .*run calibrate"):
            measured_energy(importance)
