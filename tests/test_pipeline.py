"""All stages in a row on a tiny model, and what a broken or repeated run does."""

import json
import logging
import shutil
import socket
import subprocess

import jax
import numpy as np
import pytest

from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff
from overfill_jax.stages import run_stage
from overfill_jax.training import placement
from overfill_jax.weights.checkpoints import Checkpoints, load_tree
from overfill_jax.weights.folders import load_config, load_fingerprint, load_model, load_origin
from overfill_jax.weights.origin import Origin
from tests.small_run import STEPS, make_config


def metrics_of(workdir, run="two_stage"):
    lines = (workdir / "metrics" / run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses_of(workdir, run="two_stage", name="loss"):
    return {row["step"]: row[name] for row in metrics_of(workdir, run) if name in row}


def validation_losses_of(workdir):
    return losses_of(workdir, name="validation_loss")


def bytes_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_leaves_metrics_curves_and_the_best_state(finished):
    losses = losses_of(finished)
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1]
    assert set(validation_losses_of(finished)) == {4, STEPS}
    for name in ("curves.png", "tensorboard"):
        assert (finished / "metrics/two_stage" / name).exists()
    before, after = load_model(finished / "pruned"), load_model(finished / "decoder")
    assert before.config == after.config
    assert any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


def test_answers_evaluation_and_export(copy):
    config = make_config(copy)
    for stage in ("generate", "evaluate", "export"):
        run_stage(stage, config, copy)
    answers = (copy / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 10
    summary = json.loads((copy / "results/two_stage.json").read_text())
    assert (
        summary["parameters"] < json.loads((copy / "results/full.json").read_text())["parameters"]
    )
    assert (copy / "report/report.md").exists()
    exported, decoder = load_model(copy / "hf"), load_model(copy / "decoder")
    jax.tree.map(np.testing.assert_array_equal, exported.params, decoder.params)
    assert json.loads((copy / "hf/config.json").read_text())["eos_token_id"] == 2


@pytest.mark.long
def test_a_decoder_with_fewer_layers_and_heads_goes_the_same_way(copy):
    config = make_config(copy)
    config.prune.kv_heads, config.prune.depth = 0.5, 0.5
    config.prune.norm_correction = True
    config.train.packing, config.train.sequence_length = True, 128
    config.evaluate.rows = 2
    shutil.rmtree(copy / "checkpoints")
    for stage in ("prune", "train", "generate", "evaluate", "export"):
        run_stage(stage, config, copy)
    shape = load_config(copy / "decoder")
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads) == (1, 2, 1)
    kept = np.load(copy / "kept.npz")
    assert shape.handoff == Handoff.of(kept["layers"].tolist(), kept["kv_heads"].tolist())
    losses = losses_of(copy)
    assert losses[STEPS] < losses[1]
    results = {path.stem for path in (copy / "results").glob("*.json")}
    assert results >= {"two_stage", "decoder_alone", "pruned_two_stage_untrained"}
    report = json.loads((copy / "results/prune.json").read_text())
    sizes = [report[name]["cache_bytes_per_position"] for name in ("full", "pruned")]
    assert sizes[0] == 4 * sizes[1] == 2 * 4 * 2 * 2 * 8
    assert len(report["norm_correction"]["mlp_norm"]) == 1
    assert report["loss_on_calibration_text"].keys() >= {"full", "pruned", "uncorrected"}
    assert load_config(copy / "hf") == shape
    exported = json.loads((copy / "hf/config.json").read_text())
    named = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [exported[name] for name in named] == [1, 2, 1, 8]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(copy):
    """What came after the checkpoint of step 2 is lost, and comes out the same again."""
    reference, decoder = losses_of(copy), load_model(copy / "decoder")
    full = bytes_of(copy / "full")
    for step in (4, STEPS):
        shutil.rmtree(copy / f"checkpoints/two_stage/{step}")
    shutil.rmtree(copy / "decoder")
    assert [path.name for path in (copy / "checkpoints/two_stage").glob("[0-9]*")] == ["2"]
    run_stage("train", make_config(copy), copy)
    assert losses_of(copy) == reference
    again = load_model(copy / "decoder")
    jax.tree.map(np.testing.assert_array_equal, again.params, decoder.params)
    assert bytes_of(copy / "full") == full


def test_a_preemption_when_validation_is_due_does_not_change_the_ranking(copy, monkeypatch):
    expected = validation_losses_of(copy)
    for step in (4, STEPS):
        shutil.rmtree(copy / f"checkpoints/two_stage/{step}")
    notices = iter([False, True])
    with monkeypatch.context() as patch, pytest.raises(distributed.Preempted):
        patch.setattr(distributed, "preempted", lambda: next(notices))
        run_stage("train", make_config(copy), copy)
    assert validation_losses_of(copy) == {}
    run_stage("train", make_config(copy), copy)
    assert validation_losses_of(copy) == expected
    shutil.rmtree(copy / f"checkpoints/two_stage/{STEPS}")
    with Checkpoints(copy / "checkpoints/two_stage", keep_last=3) as checkpoints:
        wanted = {"step": jax.ShapeDtypeStruct((), "int32")}
        assert checkpoints.restore_best(wanted, partial=True)["step"] == 4


def test_a_finished_run_is_not_trained_again(copy):
    before = (copy / "metrics/two_stage/metrics.jsonl").read_bytes()
    shutil.rmtree(copy / "decoder")
    run_stage("train", make_config(copy), copy)
    assert (copy / "metrics/two_stage/metrics.jsonl").read_bytes() == before
    assert (copy / "decoder/config.json").exists()


def test_validation_takes_the_rows_of_a_micro_batch_and_finds_the_same_loss(copy, monkeypatch):
    expected = validation_losses_of(copy)[STEPS]
    shutil.rmtree(copy / f"checkpoints/two_stage/{STEPS}")
    rows, sums = [], placement.validation_sums

    def noted(setup, params, frozen, batch):
        rows.append(len(batch.answer_segments))
        return sums(setup, params, frozen, batch)

    monkeypatch.setattr(placement, "validation_sums", noted)
    config = make_config(copy)
    config.train.accumulation = 2
    run_stage("train", config, copy)
    assert set(rows) == {4}
    np.testing.assert_allclose(validation_losses_of(copy)[STEPS], expected, rtol=1e-5)


def test_a_run_with_other_settings_is_not_continued(copy):
    config = make_config(copy)
    config.train.learning_rate = 1e-3
    with pytest.raises(InputError, match=r"train\.learning_rate was 0\.01, is 0\.001"):
        run_stage("train", config, copy)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(copy):
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "decoder")
    config = make_config(copy)
    config.train.learning_rate, config.train.clip_norm = 1e30, 1e30
    config.train.checkpoint_every = 1
    with pytest.raises(InputError, match=r"training stopped at step \d: "):
        run_stage("train", config, copy)
    assert not (copy / "decoder").exists()
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, "float32"), load_model(copy / "pruned").params
    )
    with Checkpoints(copy / "checkpoints/two_stage", keep_last=3) as checkpoints:
        latest = copy / f"checkpoints/two_stage/{checkpoints.latest}"
    kept = load_tree(latest, {"params": {"decoder": shapes}}, partial=True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


@pytest.mark.long
def test_adapters_are_merged_into_plain_weights_also_after_an_interruption(copy, caplog):
    config = make_config(copy)
    config.train.lora_rank, config.train.kl_weight = 2, 0.5
    config.train.packing, config.train.sequence_length = True, 128
    with pytest.raises(InputError, match=r"train\.lora_rank was 0, is 2"):
        run_stage("train", config, copy)
    for folder in ("checkpoints", "decoder"):
        shutil.rmtree(copy / folder)
    with caplog.at_level(logging.INFO, logger="absl"):
        run_stage("train", config, copy)
    # Of 2 layers: q, out (16 x 32), k, v (16 x 16), gate, up, down (16 x 24); 2 columns each.
    trained = 2 * 2 * (2 * (16 + 32) + 2 * (16 + 16) + 3 * (16 + 24))
    assert f"training two_stage: 6 steps of 8 rows, {trained:,} parameters" in caplog.text
    losses, decoder = losses_of(copy), load_model(copy / "decoder")
    assert losses[STEPS] < losses[1]
    pruned = load_model(copy / "pruned")
    for (path, old), new in zip(
        jax.tree.leaves_with_path(pruned.params), jax.tree.leaves(decoder.params), strict=True
    ):
        assert np.array_equal(old, new) == (path[-1].key != "kernel"), path
    for step in (4, STEPS):
        shutil.rmtree(copy / f"checkpoints/two_stage/{step}")
    shutil.rmtree(copy / "decoder")
    run_stage("train", config, copy)
    assert losses_of(copy) == losses
    jax.tree.map(np.testing.assert_array_equal, load_model(copy / "decoder"), decoder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["pruned", *(pytest.param(m, marks=pytest.mark.long) for m in ("scratch", "full"))]
)
def test_baselines_take_the_same_path(copy, method):
    config = make_config(copy)
    config.train.method, config.train.steps, config.train.accumulation = method, 2, 2
    config.train.cutoff = True
    run_stage("train", config, copy)
    folder = {"pruned": "pruned_tuned", "scratch": "scratch", "full": "full_tuned"}[method]
    trained = load_model(copy / "baselines" / folder)
    untrained = load_model(copy / ("full" if method == "full" else "pruned"))
    assert trained.config == untrained.config
    pruned = None if method == "full" else load_fingerprint(copy / "pruned")
    origin = Origin(load_fingerprint(copy / "full"), None, pruned)
    assert load_origin(copy / "baselines" / folder) == origin
    assert list(losses_of(copy, method)) == [1, 2]


def test_trained_decoders_name_their_full_model(copy):
    full, pruned = load_fingerprint(copy / "full"), load_fingerprint(copy / "pruned")
    assert load_origin(copy / "pruned") == Origin(full, None)
    assert load_origin(copy / "decoder") == Origin(full, "full", pruned)
    config = make_config(copy)
    config.generate.first_token = "decoder"
    with pytest.raises(InputError, match="decoder: trained with first_token 'full', found"):
        run_stage("generate", config, copy)
    config.seed = 5
    run_stage("init", config, copy)
    with pytest.raises(InputError, match="pruned: made from another full model"):
        run_stage("train", config, copy)
    with pytest.raises(InputError, match=r"no system .*decoder: trained behind another full"):
        run_stage("evaluate", config, copy)


@pytest.mark.long
def test_a_new_cut_leaves_what_was_trained_on_the_last_one_out(copy, caplog):
    config = make_config(copy)
    config.train.method, config.train.steps = "pruned", 2
    run_stage("train", config, copy)
    config.prune.hidden = 20
    run_stage("prune", config, copy)
    config.train.method, config.evaluate.rows = "two_stage", 2
    with caplog.at_level(logging.WARNING, logger="absl"):
        run_stage("evaluate", config, copy)
    said = "\n".join(caplog.messages)
    for title, folder in (
        ("two-stage", "decoder"),
        ("decoder alone", "decoder"),
        ("pruned, tuned", "baselines/pruned_tuned"),
    ):
        reason = f"{copy / folder}: made from another pruned model: fingerprint "
        assert f"{title}: left out; {reason}" in said
    summary = json.loads((copy / "report/summary.json").read_text())
    assert summary["accuracy"].keys() == {
        "full", "pruned_untrained", "pruned_two_stage_untrained",
    }  # fmt: skip
    assert summary["gap_closed"] is None


def test_a_stage_brings_back_what_a_killed_run_moved_aside(copy):
    process = subprocess.Popen(["true"])
    process.wait()
    (copy / "full").rename(copy / f".full.old-{socket.gethostname()}-{process.pid}")
    run_stage("prune", make_config(copy), copy)
    assert (copy / "full").is_dir()


@pytest.mark.long
def test_joint_training_saves_both_models(copy):
    config = make_config(copy)
    config.train.freeze, config.train.steps = "none", 2
    config.train.kl_weight, config.train.first_token = 0.5, "decoder"
    run_stage("train", config, copy)
    origin = Origin(
        load_fingerprint(copy / "joint/full"), "decoder", load_fingerprint(copy / "pruned")
    )
    assert load_origin(copy / "joint/decoder") == origin
    assert load_origin(copy / "joint/full") == Origin(load_fingerprint(copy / "full"), None)
    for name, before in (("joint/full", "full"), ("joint/decoder", "pruned")):
        new, old = load_model(copy / name).params, load_model(copy / before).params
        assert np.any(
            np.asarray(new["embed"]["embedding"]) != np.asarray(old["embed"]["embedding"])
        )


@pytest.mark.slow
def test_pruning_again_needs_no_new_pass_and_takes_given_indices(copy):
    config = make_config(copy)
    config.prune.hidden = 20
    run_stage("prune", config, copy)
    assert load_model(copy / "pruned").config.hidden_size == 20
    (copy / "importance.npz").unlink()
    shutil.move(copy / "kept.npz", copy / "given.npz")
    config.prune.indices = str(copy / "given.npz")
    run_stage("prune", config, copy)
    ours, given = np.load(copy / "kept.npz"), np.load(copy / "given.npz")
    np.testing.assert_array_equal(ours["intermediate"], given["intermediate"])
    report = json.loads((copy / "results/prune.json").read_text())
    assert report["loss_on_calibration_text"]["positions"] == "answer"
    assert report["loss_on_calibration_text"]["pruned"] > 0


def test_a_tfds_folder_calibrates_as_its_files_do(copy):
    config = make_config(copy)
    expected = np.load(copy / "calibration.npz")["tokens"]
    config.data.train = str(shutil.move(copy / "data/train.jsonl", copy / "own.jsonl"))
    shutil.rmtree(copy / "data")
    run_stage("data", config, copy)
    config.calibrate.source = "{workdir}/data"
    run_stage("calibrate", config, copy)
    np.testing.assert_array_equal(np.load(copy / "calibration.npz")["tokens"], expected)


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_calibration_reads_text_files_and_answers(copy, positions):
    config = make_config(copy)
    config.calibrate.positions = positions
    (copy / "some.txt").write_text("Ann has 3.\n\nBob has 4 and wins 5.\n")
    if positions == "answer":
        run_stage("calibrate", config, copy)
        counted = np.load(copy / "calibration.npz")
        assert counted["starts"].min() > 0
        config.calibrate.source = str(copy / "some.txt")
        with pytest.raises(InputError, match=r"positions: found 'answer', but .*some.txt is plain"):
            run_stage("calibrate", config, copy)
    else:
        config.calibrate.source = str(copy / "some.txt")
        run_stage("calibrate", config, copy)
        assert np.load(copy / "calibration.npz")["tokens"].shape[0] == 2
    provenance = json.loads(str(np.load(copy / "importance.npz")["provenance"]))
    assert (provenance["dtype"], provenance["positions"]) == ("float32", positions)
