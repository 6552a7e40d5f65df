"""The benchmarks on a small shape: what they measure, and what they refuse."""

import dataclasses
import json
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import default
from overfill_jax.benchmarking import inference, train_step, transformers_generate
from overfill_jax.benchmarking.benchmark import run
from overfill_jax.benchmarking.refresh import implied_speed_up
from overfill_jax.benchmarking.systems import random_weights
from overfill_jax.benchmarking.train_step import fill, largest_logits
from overfill_jax.chips import find_chip
from overfill_jax.errors import InputError
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.refresh import Tally
from overfill_jax.model.size import dimensions, parameters_by_part
from overfill_jax.overrides import with_settings
from overfill_jax.planning.inference import plan_inference
from overfill_jax.planning.workload import pruned_shape, read_workload
from overfill_jax.weights.hugging_face_config import to_hugging_face
from tests.builders import CONFIG as SHAPE
from tests.small_run import make_config

CONFIG = dataclasses.replace(SHAPE, num_layers=1)
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
@pytest.mark.long
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
        with_settings(config, settings.split(), "benchmark.variants")


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("refresh", ["none", "every"])
def test_many_requests_against_one_by_one(config, tmp_path, refresh):
    config.benchmark.update(
        subject="engine", prompts=(16,), answers=(8,), repeats=1, requests=5, precision=8
    )
    config.engine.update(slots=2, length=24, chunk=8)
    config.generate.update(dtype="float32", cache="int8", refresh=refresh, refresh_interval=4)
    run(config, tmp_path)
    full, both = json.loads((tmp_path / "benchmark/engine.json").read_text())["served"]
    assert (full["system"], both["system"]) == ("full", "two-stage")
    for one in (full, both):
        assert 5 * 4 <= one["tokens"] <= 5 * 8
        assert one["alone"] > 0 and one["together"] > 0
        assert len(one["first"]) == 5
        assert 0 < min(one["first"]) < max(one["first"])
    config.benchmark.requests = 0
    with pytest.raises(InputError, match=r"benchmark.requests: found 0"):
        run(config, tmp_path)


@pytest.mark.long
def test_answers_of_all_systems(config, tmp_path, monkeypatch):
    config.benchmark.update(
        subject="inference", batches=(1, 2), prompts=(16,), answers=(4, 20), repeats=1
    )
    config.benchmark.transformers = False
    config.benchmark.precision = 8
    config.generate.update(dtype="float32", cache="int8", refresh="every", refresh_interval=4)
    run(config, tmp_path)
    found = json.loads((tmp_path / "benchmark/inference.json").read_text())
    assert found["bandwidth"] > 1e8
    assert found["models"]["full"]["hidden_size"] == CONFIG.hidden_size
    assert found["models"]["decoder"] == dimensions(pruned_shape(CONFIG, config.prune))
    assert found["settings"] == {
        "benchmark.precision": 8, "generate.cache": "int8", "generate.refresh": "every",
    }  # fmt: skip
    sizes = [(one["batch"], one["prompt"], one["answer"]) for one in found["answers"]]
    assert sizes == [(b, 16, a) for b in (1, 2) for a in (4, 20) for _ in range(3)]
    for one in found["answers"]:
        assert 0 < one["first"] < one["total"]
        step = (one["total"] - one["first"]) / (one["answer"] - 1)
        assert one["reached"] == pytest.approx(one["bytes"] / found["bandwidth"] / step)
        assert (one["handoff"] is not None) == (one["system"] == "two-stage")
        assert one["mfu"] is None  # of a CPU
    full, decoder, both = found["answers"][3:6]
    assert (full["system"], decoder["system"], both["system"]) == (
        "full", "decoder alone", "two-stage",
    )  # fmt: skip
    # The weights of the qwen3 family have no bias, as the file that gives the shape says.
    parts = parameters_by_part(dataclasses.replace(CONFIG, qkv_bias=False))
    weights = sum(parts.values()) - parts["embed"]
    entries = 26 * 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim
    assert full["bytes"] == 4 * (weights + entries)
    assert decoder["bytes"] < full["bytes"] / 2
    # Of four tokens the decoder writes three.
    assert both["bytes"] == pytest.approx(0.75 * decoder["bytes"] + 0.25 * full["bytes"])
    assert (tmp_path / "benchmark/breakdown.png").stat().st_size > 10_000
    assert "over full" in (tmp_path / "benchmark/inference.md").read_text()


@pytest.mark.long
def test_the_planner_is_put_to_the_test_where_it_knows_the_chip(config, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "local_chip", lambda: find_chip("h200"))
    config.benchmark.update(
        subject="inference", batches=(2,), prompts=(16,), answers=(8,), repeats=1, precision=8
    )
    config.benchmark.transformers = False
    config.generate.update(dtype="bfloat16", cache="int8")
    config.plan.update(chip="h200", batch=2, prompt=16, answer=8, weights="int8", cache="int8")
    run(config, tmp_path)
    found = json.loads((tmp_path / "benchmark/inference.json").read_text())["answers"]
    workload = read_workload(config, 1)
    plan = plan_inference(config.plan, workload.full, workload.decoder, find_chip("h200"))
    for one, name in zip(found, ("full alone", "decoder alone", "two-stage"), strict=True):
        times = plan.times[name]
        assert one["planned_first"] == times.first_token
        assert one["planned_step"] == pytest.approx((times.total - times.first_token) / 7)
    config.generate.update(dtype="float32")
    run(config, tmp_path)
    found = json.loads((tmp_path / "benchmark/inference.json").read_text())["answers"]
    assert [one["planned_step"] for one in found] == [None] * 3


@pytest.mark.long
def test_the_pair_under_every_refresh_policy(prepared, tmp_path):
    workdir = shutil.copytree(prepared, tmp_path / "run")
    for name in ("decoder", "other"):
        shutil.copytree(workdir / "pruned", workdir / name)
    config = make_config(workdir)
    config.benchmark.update(subject="refresh", intervals=(1, 4), decoders=("decoder", "other"))
    config.evaluate.max_new_tokens = 8
    run(config, workdir)
    found = json.loads((workdir / "benchmark/refresh.json").read_text())["policies"]
    names = ["full model alone", "none", "every 4", "every 1", "entropy 2, every 4"]
    names += ["entropy 0.3, every 4", "verified, every 4"]
    assert [one["name"] for one in found[:7]] == names
    assert [one["decoder"] for one in found] == ["full", *["decoder"] * 6, *["other"] * 6]
    assert [one["loss"] for one in found[7:]] == [one["loss"] for one in found[1:7]]
    by_name = {one["name"]: one for one in found[:7]}
    assert by_name["every 1"]["loss"] == pytest.approx(by_name["full model alone"]["loss"])
    assert by_name["none"]["loss"] != by_name["every 1"]["loss"]
    for one in found[:5]:
        tokens = [place["tokens"] for place in one["positions"]]
        losses = [place["loss"] for place in one["positions"]]
        assert np.average(losses, weights=tokens) == pytest.approx(one["loss"])
        assert np.mean([share for _, share in one["by_length"]]) == pytest.approx(one["accuracy"])
        words = [words for words, _ in one["by_length"]]
        assert words == sorted(words)
    assert by_name["verified, every 4"]["positions"] == []
    for name in ("every 1", "verified, every 4"):
        assert by_name[name]["as_full"] == 1.0
    assert by_name["verified, every 4"]["acceptance"] < 1 == by_name["every 4"]["acceptance"]
    assert 1 < by_name["every 4"]["speed_up"] < by_name["none"]["speed_up"]
    assert by_name["every 1"]["speed_up"] == 1
    # Where the decoder is unsure of nearly all, the full model writes nearly all.
    assert by_name["entropy 0.3, every 4"]["speed_up"] < by_name["every 4"]["speed_up"]
    assert (workdir / "benchmark/refresh.png").stat().st_size > 10_000


@pytest.mark.long
def test_the_pair_in_integers(prepared, tmp_path):
    workdir = shutil.copytree(prepared, tmp_path / "run")
    shutil.copytree(workdir / "pruned", workdir / "decoder")
    config = make_config(workdir)
    config.benchmark.update(subject="precision", groups=(0, 4))
    config.evaluate.max_new_tokens = 8
    run(config, workdir)
    found = json.loads((workdir / "benchmark/precision.json").read_text())["pairs"]
    weights = ["float32", "int8", "int8, groups of 4", "int4", "int4, groups of 4"]
    assert [one["weights"] for one in found] == [*(w for w in weights for _ in range(2)), "float32"]
    assert [one["cache"] for one in found] == [*["float32", "int8"] * 5, "float32"]
    assert [one["full"] for one in found] == [*["float32"] * 10, "int8"]
    exact, *others = found
    assert (exact["as_exact"], exact["worst_error"]) == (1.0, 0.0)
    for one in others:
        assert 0 < one["median_error"] < one["worst_error"]
    by_name = {one["weights"]: one for one in found[:10:2]}
    for name in ("int8", "int4"):
        assert by_name[f"{name}, groups of 4"]["median_error"] < by_name[name]["median_error"]
        assert by_name[f"{name}, groups of 4"]["bytes"] > by_name[name]["bytes"]
    assert by_name["int8"]["median_error"] < 0.25 * by_name["int4"]["median_error"]
    assert by_name["int4"]["bytes"] < by_name["int8"]["bytes"] < exact["bytes"]
    assert (workdir / "benchmark/precision.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ()}, r"benchmark.groups: found \(\), expected numbers of at least 0"),
        ({"intervals": ()}, r"benchmark.intervals: found \(\), expected numbers"),
        ({"subject": "refresh", "intervals": (4, 999)}, "benchmark.intervals: found 999, but an"),
        ({"decoders": ()}, "benchmark.decoders: found none, expected folders"),
        (
            {"subject": "inference", "answers": (1,)},
            r"\(1,\), expected numbers of at least 2",
        ),
        ({"subject": "inference", "repeats": 0}, "benchmark.repeats: found 0"),
        ({"subject": "inference", "prompts": (120,)}, "more than the 128 positions"),
        ({"subject": "inference", "precision": 5}, "quantise.bits: found 5"),
        ({"subject": "engine", "prompts": ()}, r"benchmark.prompts: found \(\), expected positive"),
        ({"subject": "engine", "prompts": (0,)}, r"benchmark.prompts: found \(0,\), expected"),
        ({"subject": "engine", "answers": ()}, r"benchmark.answers: found \(\), expected positive"),
        ({"subject": "engine", "prompts": (2040,)}, "engine.length: found 2048, but prompts of"),
    ],
)
def test_sizes_that_cannot_be_timed_are_named(config, tmp_path, changes, message):
    config.benchmark.update(answers=(10,), batches=(1,))
    config.benchmark.update(changes)
    with pytest.raises(InputError, match=message):
        run(config, tmp_path)


def test_the_first_token_is_timed_whoever_gives_it(unchecked):
    """Where the decoder does, the prompts have been read and nothing is written at first."""

    class Slow:
        def draft(self, most):
            return SimpleNamespace(written=0)

        def grow(self, drafts, *_):
            yield
            time.sleep(0.05)
            for draft in drafts.values():
                draft.written += 1
            yield
            time.sleep(0.05)

    first, total = inference.answer_all(Slow(), [[1], [2]], 2)
    assert 0.05 <= first <= total - 0.05


@pytest.mark.parametrize(("subject", "shortest"), [("inference", 10), ("engine", 5)])
def test_an_interval_that_the_shortest_answer_does_not_reach_is_named(
    config, tmp_path, subject, shortest
):
    config.benchmark.update(subject=subject, answers=(10, 20), prompts=(16,))
    config.generate.update(refresh="every", refresh_interval=11)
    message = f"generate.refresh_interval: found 11, but the shortest answer has {shortest} tokens"
    with pytest.raises(InputError, match=message):
        run(config, tmp_path)


def test_a_run_that_is_stopped_has_told_what_it_found(config, tmp_path, monkeypatch):
    sizes = []

    def size_of(systems, others, size, *_):
        sizes.append(size)
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return [inference.Answered("full", *size, 1.0, 2.0, 0.0, None, None)], []

    monkeypatch.setattr(inference, "time_size", size_of)
    monkeypatch.setattr(inference, "read_bandwidth", lambda: 1e9)
    config.benchmark.update(subject="inference", batches=(1, 2), prompts=(16,), answers=(4,))
    config.benchmark.transformers = False
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path)
    (found,) = json.loads((tmp_path / "benchmark/inference.json").read_text())["answers"]
    assert (found["batch"], found["total"]) == (1, 2.0)


def test_who_has_no_room_is_told_apart_and_the_others_go_on(config, monkeypatch):
    """As torch says it, whose error `transformers_generate` turns into this one."""

    def full(*_):
        raise MemoryError("out of memory")

    systems = inference.Systems({}, {}, {}, vocabulary=8, longest=99)
    others = {"none": full, "some": lambda prompts, answer: (1.0, 3.0)}
    (found,), lacking = inference.time_size(systems, others, (2, 4, 3), 1, 1e9)
    assert (found.system, found.first, found.step) == ("some", 1.0, 1.0)
    assert lacking == [inference.WithoutRoom("none", 2, 4, 3)]


def test_a_size_that_nobody_has_room_for_is_passed_over(config, tmp_path, monkeypatch):
    def size_of(systems, others, size, *_):
        if size[0] > most:
            return [], [inference.WithoutRoom("full", *size)]
        return [inference.Answered("full", *size, 1.0, 2.0, 0.0, None, None)], []

    monkeypatch.setattr(inference, "time_size", size_of)
    monkeypatch.setattr(inference, "read_bandwidth", lambda: 1e9)
    config.benchmark.update(subject="inference", batches=(2, 1), prompts=(16,), answers=(4,))
    config.benchmark.transformers = False
    most = 0
    with pytest.raises(InputError, match=r"benchmark.batches: found \(2, 1\), for none of which"):
        run(config, tmp_path)
    most = 1
    run(config, tmp_path)
    told = json.loads((tmp_path / "benchmark/inference.json").read_text())
    assert [one["batch"] for one in told["answers"]] == [1]
    assert told["out_of_memory"] == [{"system": "full", "batch": 2, "prompt": 16, "answer": 4}]
    *_, lacking = (
        (tmp_path / "benchmark/inference.md").read_text().rstrip().split("\n\n")[2].split("\n")
    )
    assert lacking.split("|")[1:6] == [" full ", " 2 ", " 16 ", " 4 ", " out of memory "]


def test_transformers_answers_as_many_tokens_as_asked(config):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = random_weights(dataclasses.replace(CONFIG, dtype="float32", qkv_bias=False), 0)
    answer = transformers_generate.load(model)[transformers_generate.EAGER]
    first, total = answer([[1, 2, 3], [4, 5, 6]], 5)
    assert 0 < first < total


def test_speed_up_by_hand():
    """Eight tokens, the first by prefill, the last a stop: two reads of the full model at most."""
    answer = Answer([5] * 7, "", "stop")
    tally = Tally(blocks=1, drafted=7, kept=7)
    assert implied_speed_up([answer], tally, 1 / 7) == 7 / 2
    assert implied_speed_up([Answer([], "", "stop")], Tally(), 1 / 7) == 1.0
