"""The benchmarks on a small shape: what they measure, and what they refuse."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import default
from overfill_jax.benchmarking import train_step
from overfill_jax.benchmarking.benchmark import run, with_settings
from overfill_jax.benchmarking.train_step import fill, largest_logits
from overfill_jax.errors import InputError
from overfill_jax.planning.workload import read_workload
from overfill_jax.weights.hugging_face_config import to_hugging_face
from tests.builders import CONFIG
from tests.test_pipeline import make_config

ROWS, SLOTS, CHUNK = 2, 256, 32


@pytest.fixture
def config(tmp_path):
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(to_hugging_face(CONFIG, "bfloat16", {})))
    config = default.get_config()
    config.plan.model = str(shape)
    config.prune.hidden, config.prune.intermediate = 16, 32
    config.train.batch_size, config.train.sequence_length = ROWS, SLOTS
    config.train.loss_chunk = CHUNK
    config.benchmark.steps = 2
    return config


@pytest.mark.usefixtures("unchecked")
def test_a_step_and_its_variants(config, tmp_path, capsys):
    config.benchmark.variants = ("train.loss_chunk=128 train.remat=none",)
    run(config, tmp_path)
    found = json.loads((tmp_path / "benchmark/train.json").read_text())["variants"]
    names = ["as configured", "train.loss_chunk=128 train.remat=none", "as configured, again"]
    assert [one["name"] for one in found] == names
    for one in found:
        assert len(one["seconds"]) == 2
        assert all(second > 0 for second in one["seconds"])
        # Rows are filled to the last slot.
        assert one["tokens"] == ROWS * SLOTS
        assert one["flops"] == found[0]["flops"] > 0
    chunks = [one["logits"] for one in found]
    assert chunks == [4 * ROWS * size * CONFIG.vocab_size for size in (CHUNK, 128, CHUNK)]
    assert found[0]["temporary"] != found[1]["temporary"]
    printed = capsys.readouterr().out
    assert "unknown peak" in printed  # of a CPU; a share of it would be made up
    assert (tmp_path / "benchmark/train.md").read_text().count("\n|") >= 4


@pytest.mark.usefixtures("unchecked")
def test_without_steps_nothing_runs(config, tmp_path, monkeypatch):
    config.benchmark.steps = 0
    monkeypatch.setattr(train_step, "_run", lambda *_: pytest.fail("it ran"))
    run(config, tmp_path)
    (found,) = json.loads((tmp_path / "benchmark/train.json").read_text())["variants"]
    assert found["seconds"] == []
    assert found["temporary"] > 0


def test_logits_are_told_from_weights(config):
    work = read_workload(config, jax.device_count())
    vocabulary, width = CONFIG.vocab_size, CONFIG.hidden_size
    program = f"f32[{width},{vocabulary}] bf16[9,9,{vocabulary}] f32[2,8,{vocabulary}] f32[999,9]"
    assert largest_logits(program, work) == 4 * 2 * 8 * vocabulary


def test_rows_hold_several_examples(config):
    batch = fill(read_workload(config, jax.device_count()))
    for segments in (batch.prompt_segments, batch.answer_segments):
        assert set(np.unique(segments)) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("train.remat", "found 'train.remat', expected KEY=VALUE"),
        ("train.remats=none", "train.remats"),
        ("train.loss_chunk=wide", "loss_chunk"),
    ],
)
def test_variants_that_are_not_understood(config, settings, message):
    with pytest.raises(InputError, match=f"benchmark.variants: .*{message}"):
        with_settings(config, settings)


def test_loading_counts_tokens_and_not_padding(prepared, tmp_path):
    """On a workdir of which it reads the tokenizer and the rows."""
    workdir = tmp_path / "run"
    shutil.copytree(prepared, workdir)
    config = make_config(workdir)
    config.train.packing, config.train.sequence_length = True, 192
    config.benchmark.subject, config.train.epochs = "load", 2
    config.benchmark.variants = ("train.packing=False",)
    run(config, workdir)
    packed, padded = json.loads((workdir / "benchmark/load.json").read_text())["variants"]
    assert packed["filling"]["used"] > padded["filling"]["used"]
    assert padded["filling"]["padded"] == packed["filling"]["padded"]
    # The same examples, twice, but for the rows that fill the last batch.
    for one in (packed, padded):
        filling = one["filling"]
        slots = filling["shape"]["prompt_slots"] + filling["shape"]["answer_slots"]
        tokens = 2 * filling["rows"] * slots * filling["used"]
        assert tokens <= one["tokens"] * 1.0001
        assert one["tokens"] <= tokens + config.train.batch_size * slots
        assert one["rate"] == pytest.approx(one["tokens"] / one["seconds"])


def test_unknown_subjects(config, tmp_path):
    config.benchmark.subject = "sleep"
    with pytest.raises(
        InputError, match=r"benchmark.subject: found 'sleep', expected one of train"
    ):
        run(config, tmp_path)
