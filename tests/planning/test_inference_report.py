"""The sentence, whatever it has to say, and tables whose numbers are the plan's."""

import json

import pytest

from overfill_jax.planning.inference import FULL, TWO_STAGE
from overfill_jax.planning.inference_plot import speed_up_plot
from overfill_jax.planning.inference_report import assumptions, numbers, sentence, tables
from tests.planning.test_inference import planned
from tests.planning.test_passes import FULL as SHAPES


def test_the_sentence():
    plan = planned()
    said = sentence(plan)
    gain = plan.speed_up(512, 1024, FULL)
    assert said.startswith("On one h200, batch 1, 512 in / 1,024 out, decoder in bfloat16: ")
    assert f"{gain:.2f}x as fast as the full model (the weights' bytes would allow 2.58x)" in said
    assert "it pays from 2 answer tokens on" in said
    assert f"gains 10% or more up to prompts of {plan.longest_prompt(1.1):,} tokens." in said


def test_the_sentence_says_when_it_never_pays():
    said = sentence(planned(decoder=SHAPES["llama3_2_3b"]))
    assert "pays at no length of the answer, and gains 10% or more at no length of the" in said


@pytest.mark.parametrize(("batch", "fits"), [(1, True), (64, False)])
def test_the_sentence_says_when_it_does_not_fit(batch, fits):
    said = sentence(planned(chip="v5e", batch=batch, prompt=8192))
    assert ("does not fit" in said) is not fits


def test_shares_of_a_breakdown_make_a_whole():
    _, breakdown, *_ = tables(planned(cache="int8", refresh=32, prompt=130_300, answer=600))
    title, (header, *rows) = breakdown
    assert title == "Where the time of an answer goes"
    assert header[3:] == ["prefill", "handoff", "decode", "refresh"]
    # 1,024 tokens behind this prompt are more than the model was made for.
    assert [row[0] for row in rows] == ["128"] * 3 + ["512"] * 3
    for row in rows:
        assert sum(float(cell.rstrip("%")) for cell in row[3:]) == pytest.approx(100, abs=0.2)


def test_answers_shorter_than_a_block_are_left_out():
    _, (_, (_, *rows)), *_ = tables(planned(refresh=256))
    assert {row[0] for row in rows} == {"512", "1,024"}


def test_numbers_are_those_of_the_plan():
    plan = planned(chips=2)
    found = json.loads(json.dumps(numbers(plan)))
    assert found["systems"][TWO_STAGE]["total"] == plan.times[TWO_STAGE].total
    parts = [found["systems"][FULL][part] for part in ("prefill", "handoff", "decode", "refresh")]
    assert sum(parts) == pytest.approx(found["systems"][FULL]["total"])
    assert found["speed_up"][FULL] == plan.speed_up(512, 1024, FULL)
    assert found["assumed"]["weights"]["int8"] == plan.machine.reached.weights["int8"]
    assert "Whole on every chip: intermediate_size 4505." in assumptions(plan)


def test_the_plot_is_written(tmp_path):
    speed_up_plot(planned(), tmp_path / "speed_up.png")
    assert (tmp_path / "speed_up.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["speed_up.png"]
