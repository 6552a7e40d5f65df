"""The prune stage: what it takes, what it refuses, and what it leaves."""

import json
import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from configs.default import get_config
from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff
from overfill_jax.model.transformer import hidden_states, unembed
from overfill_jax.pruning import prune
from overfill_jax.pruning.choose import Kept, save_kept
from overfill_jax.pruning.importance import Importance, save_importance
from overfill_jax.pruning.samples import Samples, save_samples
from overfill_jax.weights.folders import (
    load_config,
    load_fingerprint,
    load_model,
    load_origin,
    save_model,
)
from overfill_jax.weights.origin import Origin
from tests.builders import CONFIG, make_model

SHAPES = (CONFIG.hidden_size,), (CONFIG.num_layers, CONFIG.intermediate_size)


@pytest.fixture
def workdir(tmp_path):
    save_model(tmp_path / "full", make_model(), None)
    return tmp_path


@pytest.fixture
def config():
    config = get_config()
    config.prune.hidden, config.prune.intermediate = 0.5, 0.5
    return config


def with_importance(workdir, **changes):
    rng = np.random.default_rng(0)
    scores = dict(zip(("hidden", "intermediate"), map(rng.random, SHAPES), strict=True))
    scores["heads"] = rng.random((CONFIG.num_layers, CONFIG.num_heads))
    scores["layers"] = rng.random(CONFIG.num_layers)
    scores = {name: array.astype(np.float32) for name, array in (scores | changes).items()}
    provenance = {"model": load_fingerprint(workdir / "full")}
    save_importance(workdir / "importance.npz", Importance(**scores, provenance=provenance))


def test_the_pruned_model_names_the_full_one(workdir, config):
    with_importance(workdir)
    prune.run(config, workdir)
    full = load_fingerprint(workdir / "full")
    assert load_origin(workdir / "pruned") == Origin(full, first_token=None)


@pytest.mark.parametrize("selection", ["random", "first"])
def test_selections_without_importance_need_none(workdir, config, caplog, selection):
    config.prune.selection = selection
    with caplog.at_level(logging.INFO, logger="absl"):
        prune.run(config, workdir)
    assert load_config(workdir / "pruned").hidden_size == 12
    report = json.loads((workdir / "results" / "prune.json").read_text())
    assert report["loss_on_calibration_text"] is None
    assert "calibration.npz: no such file, so that the loss" in "\n".join(caplog.messages)


def test_importance_is_demanded_where_it_decides(workdir, config):
    with pytest.raises(InputError, match=r"importance\.npz: no such file"):
        prune.run(config, workdir)


def test_heads_and_layers_go_alone_or_with_widths(workdir, config, caplog):
    with_importance(workdir)
    config.prune.update({"heads": 0.5, "kv_heads": 0.5, "depth": 0.34})
    for hidden in (0.5, 0.0):
        config.prune.hidden = config.prune.intermediate = hidden
        with caplog.at_level(logging.INFO, logger="absl"):
            prune.run(config, workdir)
        shape, kept = load_config(workdir / "pruned"), np.load(workdir / "kept.npz")
        assert (shape.num_layers, shape.num_kv_heads, shape.num_heads) == (1, 1, 1)
        assert shape.handoff == Handoff.of(kept["layers"].tolist(), kept["kv_heads"].tolist())
        assert len(kept["intermediate"]) == len(kept["heads"]) == 1
    assert shape.hidden_size == CONFIG.hidden_size
    report = json.loads((workdir / "results" / "prune.json").read_text())
    assert report["full"]["cache_bytes_per_position"] == 4 * 2 * 3 * 2 * 8
    assert report["pruned"]["cache_bytes_per_position"] == 4 * 2 * 1 * 1 * 8
    assert (report["full"]["num_layers"], report["pruned"]["num_layers"]) == (3, 1)
    assert "cache bytes per position" in caplog.text
    before = load_fingerprint(workdir / "pruned")
    config.prune.update({"heads": 0.0, "kv_heads": 0.0, "depth": 0.0})
    config.prune.indices = str((workdir / "kept.npz").rename(workdir / "given.npz"))
    prune.run(config, workdir)
    assert load_fingerprint(workdir / "pruned") == before


def test_the_norms_are_corrected_where_asked_for(workdir, config, caplog):
    config.prune.selection, config.prune.norm_correction = "first", True
    with pytest.raises(InputError, match=r"importance\.npz: no such file"):
        prune.run(config, workdir)
    with_importance(workdir)
    with pytest.raises(InputError, match=r"without the norms' energy, .*; run calibrate again"):
        prune.run(config, workdir)
    assert not (workdir / "pruned").exists()
    # Of the first half of the channels: 4 times the mean energy, of the rest 1 / 4.
    energy = np.repeat([[4.0, 0.25]], CONFIG.hidden_size // 2, axis=1)
    energy = energy * np.arange(1, 2 * CONFIG.num_layers + 2)[:, None]
    with_importance(workdir, energy=energy)
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    zeros = np.zeros(2, np.int32)
    save_samples(workdir / "calibration.npz", Samples(tokens, zeros + 8, zeros, zeros))
    with caplog.at_level(logging.INFO, logger="absl"):
        prune.run(config, workdir)
    report = json.loads((workdir / "results" / "prune.json").read_text())
    factor = (4 / 2.125) ** 0.5
    assert report["norm_correction"]["final_norm"] == pytest.approx(factor)
    assert f"scales of the norms times {factor:.3f} to {factor:.3f}; without, pruned" in caplog.text
    corrected = load_model(workdir / "pruned").params
    config.prune.norm_correction = False
    prune.run(config, workdir)
    plain = load_model(workdir / "pruned").params
    again = json.loads((workdir / "results" / "prune.json").read_text())
    assert again["norm_correction"] is None
    losses = [of["loss_on_calibration_text"] for of in (report, again)]
    assert losses[0]["uncorrected"] == losses[1]["pruned"] != losses[0]["pruned"]
    ratio = corrected["layers"]["mlp_norm"]["scale"] / plain["layers"]["mlp_norm"]["scale"]
    np.testing.assert_allclose(ratio, factor, rtol=1e-6)


def test_layers_by_rule_need_no_importance(workdir, config):
    config.prune.update({"hidden": 0.0, "intermediate": 0.0, "depth": 2, "layers": "firstlast"})
    prune.run(config, workdir)
    assert load_config(workdir / "pruned").handoff.layers == (0, 2)


@pytest.mark.parametrize("name", ["hidden", "intermediate"])
def test_scores_that_are_not_finite_are_refused(workdir, config, name):
    scores = np.ones(SHAPES[name == "intermediate"])
    scores[..., 3] = np.nan
    with_importance(workdir, **{name: scores})
    with pytest.raises(InputError, match=rf"importance\.npz: {name} holds NaN or Inf"):
        prune.run(config, workdir)


def test_settings_that_cannot_work_are_named(workdir, config):
    kept = Kept(np.arange(9), np.tile(np.arange(8), (CONFIG.num_layers, 1)))
    save_kept(workdir / "given.npz", kept)
    for changes, message in (
        ({"indices": str(workdir / "given.npz"), "selection": "foo"}, "selection: found 'foo'"),
        ({"hidden": float("inf")}, "prune.hidden: found width inf"),
        ({"multiple_of": 0}, "prune.multiple_of: found 0"),
        ({"depth": 4}, "prune.depth: found width 4"),
        ({"layers": "middle"}, "prune.layers: found 'middle'"),
        (
            {"indices": str(workdir / "given.npz"), "kv_heads": 0.5},
            "prune.kv_heads: found 0.5 beside prune.indices",
        ),
        ({"hidden": 0.0, "intermediate": 0.0}, "depth that keep every channel"),
    ):
        changed = config.copy_and_resolve_references()
        changed.prune.update(changes)
        with pytest.raises(InputError, match=message):
            prune.run(changed, workdir)
    assert not (workdir / "pruned").exists()


@pytest.mark.parametrize("token", [-1, CONFIG.vocab_size])
def test_samples_of_another_model_are_refused(workdir, config, token):
    with_importance(workdir)
    zeros = np.zeros(2, int)
    samples = Samples(np.full((2, 6), token), np.array([6, 6]), zeros, zeros)
    save_samples(workdir / "calibration.npz", samples)
    with pytest.raises(InputError, match=rf"calibration\.npz: found tokens .*{token}"):
        prune.run(config, workdir)
    assert not (workdir / "pruned").exists()


@pytest.mark.parametrize(
    ("answers", "positions", "said"),
    [
        ([0, 0, 0], "all", "whole calibration text"),
        ([8, 8, 8], "all", "whole calibration text"),  # what was cut off
        ([3, 8, 5], "answer", "answers in the calibration text"),
    ],
)
def test_the_loss_before_training_is_of_answers_where_there_are(
    workdir, config, caplog, answers, positions, said
):
    with_importance(workdir)
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 8)).astype(np.int32)
    lengths, zeros = np.full(3, 8, np.int32), np.zeros(3, np.int32)
    save_samples(
        workdir / "calibration.npz",
        Samples(tokens, lengths, zeros, np.array(answers, np.int32)),
    )
    with caplog.at_level(logging.INFO, logger="absl"):
        prune.run(config, workdir)
    report = json.loads((workdir / "results" / "prune.json").read_text())
    losses = report["loss_on_calibration_text"]
    assert losses["positions"] == positions
    assert f"loss on the {said} before training: full " in caplog.text
    first = np.array(answers) if positions == "answer" else np.ones(3, int)
    counted = np.arange(8) >= first[:, None]
    model = make_model()
    places = jnp.broadcast_to(jnp.arange(8), (3, 8))
    hidden, _, _ = hidden_states(model, jnp.asarray(tokens), places, jnp.ones_like(places))
    logits = np.asarray(unembed(model, hidden), np.float64)[:, :-1]
    nats = (
        np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, tokens[:, 1:, None], 2)[..., 0]
    )
    assert losses["full"] == pytest.approx(nats[counted[:, 1:]].mean(), rel=1e-4)


@pytest.mark.parametrize("name", ["results", "results/prune.json", "kept.npz", "pruned"])
def test_what_is_in_the_way_shows_before_anything_is_replaced(workdir, config, monkeypatch, name):
    config.prune.selection = "first"
    prune.run(config, workdir)
    before = load_fingerprint(workdir / "pruned"), (workdir / "kept.npz").read_bytes()
    config.prune.hidden = 8
    (workdir / name).rename(workdir / "aside")
    put = workdir / name
    if name == "results":
        put.write_text("in the way")
    else:
        put.mkdir()
        (put / "mine").write_text("in the way")
    monkeypatch.setattr(prune, "load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=f"{name}.*: (cannot be written|found|holds other)"):
        prune.run(config, workdir)
    shutil.rmtree(put) if put.is_dir() else put.unlink()
    (workdir / "aside").rename(put)
    after = load_fingerprint(workdir / "pruned"), (workdir / "kept.npz").read_bytes()
    assert after == before
