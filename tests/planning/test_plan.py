"""The stage: a table on the console, JSON and Markdown in the workdir."""

import json

import pytest

from overfill_jax.errors import InputError
from overfill_jax.planning.plan import make_plan, run

ANSWERS = ("An answer: one v5e", "Where the time of an answer goes", "Where two stages pay")


def test_the_stage_prints_and_writes(config, tmp_path, capsys):
    config.train.steps = 100
    run(config, tmp_path)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "plan" / "plan.json").read_text())
    text = (tmp_path / "plan" / "plan.md").read_text()
    for part in (
        "Parameters",
        "Legal widths",
        "FLOPs of a step",
        "Memory of a chip",
        "Time",
        *ANSWERS,
    ):
        assert part in printed
        assert f"## {part}" in text
    assert found["mesh"] == {"data": 1, "fsdp": 16, "tensor": 1}
    assert found["memory"]["total"] == sum(found["memory"]["parts"].values())
    assert found["models"]["decoder"]["hidden_size"] == 16
    assert found["run"]["steps"] == 100
    assert found["compiled"] is None
    assert found["inference"]["request"] == {"batch": 1, "prompt": 64, "answer": 64}
    assert printed.rstrip().endswith(found["inference"]["sentence"])
    assert text.rstrip().endswith(found["inference"]["sentence"])
    assert (tmp_path / "plan" / "speed_up.png").stat().st_size > 0


def test_best_and_worst_are_told_apart(config):
    plan = make_plan(config)
    best, worst = plan.duration.seconds
    assert 0 < best < worst
    assert 1 > plan.duration.mfu[0] > plan.duration.mfu[1] > 0


def test_the_length_of_the_run(config):
    assert make_plan(config).run is None
    config.plan.tokens = 10_000_000
    config.train.epochs = 2
    run = make_plan(config).run
    assert run.steps == -(-20_000_000 // round(16 * 2048 * 0.95))
    assert run.tokens == pytest.approx(20_000_000, rel=0.01)
    assert run.hours[0] < run.hours[1]


def test_what_does_not_fit_is_said(config, tmp_path, capsys):
    config.train.batch_size = 16 * 65536
    run(config, tmp_path)
    assert "It does not fit" in capsys.readouterr().out


def test_axes_that_do_not_divide_are_named(config, tmp_path, capsys):
    config.prune.hidden = 17
    run(config, tmp_path)
    assert "Replicated, not divisible: embed (17 by 16)" in capsys.readouterr().out


def test_groups_are_those_of_quantise(config, tmp_path):
    config.plan.weights, config.quantise.group = "int8", 7
    with pytest.raises(InputError, match=r"quantise.group: found 7, .* divisor of hidden_size, 16"):
        run(config, tmp_path)
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("plan", "chip", "v5", "did you mean 'v5"),
        ("plan", "topology", "4", "plan.topology: found '4'"),
        ("plan", "tokens", -1, "plan.tokens: found -1"),
        ("plan", "batch", 0, "plan.batch: found 0"),
        ("plan", "refresh", 65, "plan.refresh: found 65"),
        ("train", "remat", "some", "train.remat: found 'some'"),
        ("train", "handoffs", True, "train.handoffs: found True; plan knows one handoff"),
        ("train", "lora_rank", 8, "train.lora_rank: found 8, expected 0; plan knows"),
    ],
)
def test_bad_input_leaves_nothing(config, tmp_path, section, key, value, message):
    config[section][key] = value
    with pytest.raises(InputError, match=message):
        run(config, tmp_path)
    assert not (tmp_path / "plan").exists()
