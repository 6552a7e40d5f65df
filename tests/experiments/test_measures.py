"""What each measure reads off the files of a cell."""

import dataclasses
import json

import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.experiments.measures import MEASURES, Point, Source, check_measures


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def proportion(share):
    return {"share": share, "low": share - 0.1, "high": share + 0.1}


def point(line, share, **where):
    """That of a proportion."""
    return Point(line, share, interval=(share - 0.1, share + 0.1), **where)


def result(path, system, shares, losses):
    """A result of families with these accuracies, of answers with these losses by position."""
    mean = sum(shares.values()) / len(shares)
    write(
        path / f"results/{system}.json",
        {
            "accuracy": proportion(mean),
            "families": {name: proportion(share) for name, share in shares.items()},
            "loss": {
                "total": {"loss": losses[0][0]},
                "positions": [{"loss": loss, "tokens": tokens} for loss, tokens in losses],
            },
        },
    )


@pytest.fixture
def source(tmp_path):
    cell = tmp_path / "cell"
    result(cell, "full", {"a": 1.0, "b": 0.8}, [(0.1, 100)])
    result(cell, "two_stage", {"a": 0.9, "b": 0.6}, [(0.5, 100), (0.7, 5), (0.9, 4)])
    result(cell, "pruned_tuned", {"a": 0.6, "b": 0.2}, [(1.5, 100)])
    result(cell, "scratch", {"a": 0.1, "b": 0.0}, [(2.5, 100)])
    return Source(cell, tmp_path / "first", tmp_path, ("full", "two_stage"), full_tokens=1000)


def read(name, source):
    return MEASURES[name].read(source)


def test_results_of_the_systems_that_are_wanted(source):
    assert read("accuracy", source) == [point("full", 0.9), point("two-stage", 0.75)]
    assert read("families", source)[2:] == [
        point("two-stage", 0.9, panel="a"),
        point("two-stage", 0.6, panel="b"),
    ]
    assert read("loss", source) == [Point("full", 0.1), Point("two-stage", 0.5)]
    # The third place is reached by too few answers.
    assert read("positions", source)[1:] == [
        Point("two-stage", 0.5, x=1),
        Point("two-stage", 0.7, x=2),
    ]


def test_gap_and_gain_set_two_stage_against_the_others(source):
    (gap,) = read("gap", source)
    assert gap.value == pytest.approx((0.75 - 0.4) / (0.9 - 0.4))
    others = Source(
        source.cell, source.first, source.workdir, ("two_stage", "pruned_tuned", "scratch"), 0
    )
    tuned, scratch = read("relative_gain", others)
    assert (tuned.line, tuned.value) == ("over pruned, tuned", pytest.approx((0.5 + 2.0) / 2))
    assert scratch.value is None  # a task that scratch never gets right


def test_all_tokens_of_what_a_system_is_made_of_count(source):
    systems = ("full", "two_stage", "scratch")
    source = Source(source.cell, source.first, source.workdir, systems, full_tokens=1000)
    for folder, rows in (
        (
            source.cell / "metrics/two_stage",
            [{"step": 1, "all_tokens": 30.0}, {"step": 1, "loss": 1}],
        ),
        (source.cell / "metrics/scratch", [{"step": 1, "all_tokens": 7.0}]),
        (source.workdir / "metrics/full", [{"step": 1, "all_tokens": 500.0}]),
    ):
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(source.cell / "importance.npz", provenance=json.dumps({"tokens": 20}))
    assert read("accuracy_by_tokens", source) == [
        point("two-stage", 0.75, x=30 + 20 + 1000 + 500),
        point("scratch", 0.05, x=7),
    ]


def test_of_a_full_model_that_is_tuned_no_calibration_counts(source):
    result(source.cell, "full_tuned", {"a": 0.5}, [(0.5, 100)])
    folder = source.cell / "metrics/full"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "all_tokens": 9.0}\n')
    source = dataclasses.replace(source, systems=("full_tuned",))
    assert not (source.cell / "importance.npz").exists()  # nothing needs it
    assert read("accuracy_by_tokens", source) == [point("full, tuned", 0.5, x=9 + 1000)]


def test_lengths_are_quarters_of_the_rows(source):
    rows = [{"reference": "w " * words, "correct": words < 6} for words in (8, 1, 7, 2, 6, 3, 5, 4)]
    for name in source.systems:
        path = source.cell / f"results/{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read("accuracy_by_length", source)[:4] == [
        Point("full", 1.0, x=1.5), Point("full", 1.0, x=3.5),
        Point("full", 0.5, x=5.5), Point("full", 0.0, x=7.5),
    ]  # fmt: skip


def test_scores_and_lengths_of_each_benchmark(source):
    for task, lengths in (("arc", None), ("wmt16", {"mean": 12.5})):
        for system in source.systems:
            bleu = {"value": 33.0, "low": 31.0, "high": 34.5}
            found = {"metrics": {"bleu": bleu, "ter": {"value": 1}}, "lengths": lengths}
            write(source.cell / f"scores/{task}/{system}.json", found)
    assert read("scores", source)[::2] == [
        Point("full", 33.0, panel=task, interval=(31.0, 34.5)) for task in ("arc", "wmt16")
    ]
    assert [one.panel for one in read("answer_lengths", source)] == ["wmt16", "wmt16"]


def test_overlap_with_the_first_cell(source):
    assert read("overlap", source) == []  # which failed
    for folder, hidden, inner in (
        (source.cell, [0, 1, 2, 3], [[0, 1], [2, 3]]),
        (source.first, [2, 3, 4, 5, 6], [[0, 1], [0, 1]]),
    ):
        folder.mkdir(exist_ok=True)
        np.savez(folder / "kept.npz", hidden=hidden, intermediate=inner)
    assert read("overlap", source) == [Point("hidden", 0.5), Point("intermediate", 0.5)]


@pytest.mark.parametrize("layers", [[1], [0, 2]])
def test_no_overlap_with_other_layers(source, layers):
    whole = [[0, 1], [2, 3]]
    source.first.mkdir()
    np.savez(source.first / "kept.npz", hidden=[0, 1], intermediate=whole)
    np.savez(
        source.cell / "kept.npz", hidden=[0, 1], intermediate=whole[: len(layers)], layers=layers
    )
    assert read("overlap", source) == []
    np.savez(source.cell / "kept.npz", hidden=[0, 1], intermediate=whole, layers=[0, 1])
    assert len(read("overlap", source)) == 2


def test_policies_whose_answers_are_the_decoders(source):
    shared = {
        "positions": [{"loss": 0.2, "tokens": 9}],
        "decoder": "decoder",
        "accuracy": 0.8,
        "speed_up": 3.5,
        "by_length": [(2.0, 1.0), (5.0, 0.6)],
    }
    write(
        source.cell / "benchmark/refresh.json",
        {
            "policies": [
                {"name": "none", "interval": None, "loss": 0.4, **shared},
                {"name": "every 4", "interval": 4, "loss": 0.3, **shared},
                {**shared, "name": "verified, every 4", "interval": 4, "positions": []},
            ]
        },
    )
    names = ("none", "every 4")
    assert read("refreshed_loss", source) == [Point("", 0.3, x=4)]
    assert read("refreshed_positions", source) == [Point(name, 0.2, x=1) for name in names]
    assert read("refreshed_accuracy", source) == [Point(name, 0.8, x=3.5) for name in names]
    assert read("refreshed_by_length", source) == [
        Point(name, share, x=words) for name in names for words, share in ((2.0, 1.0), (5.0, 0.6))
    ]


def test_decoders_are_no_seeds_of_one_another(source):
    shared = {
        "interval": 4,
        "loss": 0.3,
        "positions": [{"loss": 0.2, "tokens": 9}],
        "accuracy": 0.8,
    }
    policies = [
        {"decoder": name, "name": "every 4", "speed_up": 3.5, **shared} for name in ("one", "two")
    ]
    alone = {"decoder": "full", "name": "full model alone", "speed_up": 1.0, **shared}
    write(source.cell / "benchmark/refresh.json", {"policies": [alone, *policies]})
    assert read("refreshed_loss", source) == [Point(name, 0.3, x=4) for name in ("one", "two")]
    names = ("full model alone", "every 4, one", "every 4, two")
    assert read("refreshed_positions", source) == [Point(name, 0.2, x=1) for name in names]


def test_benchmarks_of_precision_and_time(source):
    pair = {"full": "", "weights": "int8", "cache": "float32", "accuracy": 0.9, "bytes": 52.5}
    write(source.cell / "benchmark/precision.json", {"pairs": [pair, pair | {"full": "int8"}]})
    names = ("int8, cache float32", "int8, cache float32, behind an int8 full model")
    assert read("precision", source) == [Point(name, 0.9, x=52.5) for name in names]
    size = {"batch": 1, "prompt": 512, "answer": 128}
    answer = {"system": "two-stage", **size, "first": 0.5, "total": 2.0}
    write(source.cell / "benchmark/inference.json", {"answers": [answer]})
    assert read("latency", source) == [Point("two-stage", 2.0, x=128)]
    assert read("prefill_share", source) == [Point("two-stage", 0.25, x=128)]
    longer = {**answer, "prompt": 2048, "total": 4.0}
    write(source.cell / "benchmark/inference.json", {"answers": [answer, longer]})
    assert read("latency", source) == [
        Point("two-stage, batch 1, 512 tokens in", 2.0, x=128),
        Point("two-stage, batch 1, 2048 tokens in", 4.0, x=128),
    ]
    assert [one.value for one in read("prefill_share", source)] == [0.25, 0.125]


def test_a_missing_file_is_named(source):
    with pytest.raises(InputError, match=r"benchmark/inference\.json: no such file"):
        MEASURES["latency"].read(source)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"reference": "a"', "not JSON"),
        ('{"reference": "a", "correct": 1}', "'correct' is 1, expected bool"),
    ],
)
def test_a_broken_line_is_named(source, line, said):
    path = source.cell / "results/full.jsonl"
    path.write_text('{"reference": "a", "correct": true}\n' + line + "\n")
    with pytest.raises(InputError, match=rf"results/full\.jsonl:2: found {said}"):
        read("accuracy_by_length", source)


def test_names_are_checked():
    check_measures(tuple(MEASURES), ("full", "joint"))
    with pytest.raises(InputError, match="found 'speed'"):
        check_measures(("loss", "speed"), ())
