"""Predicted answers: identities, limits, and where two stages stop paying."""

import dataclasses
import itertools

import ml_collections
import numpy as np
import pytest

from configs import default
from overfill_jax.chips import CHIPS
from overfill_jax.errors import InputError
from overfill_jax.model.handoff import Handoff
from overfill_jax.planning.inference import ALONE, FULL, TWO_STAGE, plan_inference
from overfill_jax.planning.passes import pass_seconds
from tests.builders import CONFIG
from tests.planning.test_passes import DECODER
from tests.planning.test_passes import FULL as SHAPES


def section(**changes) -> ml_collections.ConfigDict:
    plan = default.get_config().plan
    plan.update(changes)
    return plan


def planned(name: str = "llama3_2_3b", chip: str = "h200", decoder=None, **changes):
    """The answer of a true shape."""
    decoder = decoder or DECODER[name]
    return plan_inference(section(**changes), SHAPES[name], decoder, CHIPS[chip])


def test_steps_add_up_to_the_answer():
    """The mean context stands for all of them, one by one."""
    plan = planned(batch=4, prompt=300, answer=50, cache="int8")
    system, machine = plan.systems[TWO_STAGE], plan.machine
    steps = [system.step(machine, 4, 300 + step) for step in range(1, 50)]
    assert plan.times[TWO_STAGE].decode == pytest.approx(sum(steps))
    assert plan.times[TWO_STAGE].refresh == 0


def test_blocks_add_up_to_the_answer():
    """As `write_block` is called: 3 drafts and a pass over 4 tokens, until 50 are there."""
    plan = planned(batch=4, prompt=300, answer=50, refresh=4)
    system, machine = plan.systems[TWO_STAGE], plan.machine
    drafts, reads, written = [], [], 1
    while written < 50:
        drafts += [system.step(machine, 4, 300 + written + place) for place in range(3)]
        reads.append(pass_seconds(system.reader, machine, 4, 4, 300 + written + 3, True))
        written += 4
    assert len(reads) == 13
    assert plan.times[TWO_STAGE].decode == pytest.approx(sum(drafts))
    assert plan.times[TWO_STAGE].refresh == pytest.approx(sum(reads))


FEWER_HEADS = dataclasses.replace(
    SHAPES["llama3_2_3b"],
    num_heads=6,
    num_kv_heads=2,
    handoff=Handoff(tuple(range(28)), ((0, 1),) * 28),
)


@pytest.mark.parametrize(
    ("changes", "cached"),
    [({"decoder": FEWER_HEADS}, 2 * 28 * 2 * 2 * 128), ({"cache": "int8"}, 2 * 28 * 8 * 130)],
)
def test_a_reader_whose_cache_does_not_cross_as_it_is_reads_on_in_its_own(changes, cached):
    own = 2 * 28 * 8 * 2 * 128
    plan, shared = (planned(batch=4, answer=512, refresh=8, **other) for other in (changes, {}))
    machine, memory = plan.machine, plan.memory()
    assert memory["cache"] == 4 * 1024 * cached
    assert memory["full model's own cache"] == 4 * 1024 * own
    assert shared.memory()["full model's own cache"] == 0
    # Every block's entries cross, too.
    blocks, crossing = 64, 4 * 8 * (own + cached) / (4.8e12 * machine.reached.cache)
    refresh = [each.times[TWO_STAGE].refresh for each in (plan, shared)]
    assert refresh[0] == pytest.approx(refresh[1] + blocks * crossing)
    without = planned(batch=4, answer=512, **changes).memory()
    assert without["full model's own cache"] == 0


def test_a_block_is_read_whole_however_little_of_it_is_left():
    plan = planned(prompt=100, answer=64, refresh=16)
    answers = np.array([2, 17, 18, 33, 34])
    times = plan.systems[TWO_STAGE].times(plan.machine, 1, 100, answers)
    for part in (times.decode, times.refresh):
        assert 0 < part[0] == part[1] < part[2] == part[3] < part[4]


def test_groups_are_those_that_the_decoder_is_quantised_in():
    plan, shapes = section(prompt=64, answer=32, weights="int8"), (CONFIG, CONFIG)
    plans = [plan_inference(plan, *shapes, CHIPS["v5e"], group) for group in (0, 8)]
    stored = [each.memory()["decoder weights"] for each in plans]
    assert stored[0] < stored[1]
    with pytest.raises(InputError, match=r"quantise.group: found 16.* divisor of hidden_size, 24"):
        plan_inference(plan, *shapes, CHIPS["v5e"], 16)
    plan.weights = "bfloat16"
    assert plan_inference(plan, *shapes, CHIPS["v5e"], 16).limit == 1


def test_a_decoder_like_the_full_model_gains_nothing():
    plan = planned(decoder=SHAPES["llama3_2_3b"])
    assert plan.speed_up(512, 1024, FULL) == plan.speed_up(512, 1024, ALONE) == plan.limit == 1
    assert plan.shortest_answer() is plan.longest_prompt(1.1) is None
    plan = planned(decoder=SHAPES["llama3_2_3b"], cache="int8", prompt=4096, answer=64)
    times = plan.times[TWO_STAGE]
    moved = 4096 * 2 * 28 * 8 * (2 * 128 + 128 + 2)
    assert times.handoff == pytest.approx(moved / (4.8e12 * plan.machine.reached.cache))
    assert times.first_token == pytest.approx(plan.times[FULL].prefill + times.handoff)


def test_the_full_model_s_first_token_costs_nothing_more():
    plan = planned()
    assert plan.times[TWO_STAGE].first_token == plan.times[FULL].first_token
    assert plan.times[TWO_STAGE].handoff == 0
    assert plan.times[ALONE].first_token < plan.times[FULL].first_token
    assert plan.times[ALONE].decode == plan.times[TWO_STAGE].decode


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", SHAPES)
def test_gains_fall_with_the_prompt_and_rise_with_the_answer(chip, name):
    plan = planned(name, chip)
    over_prompts = plan.speed_up(np.array([16, 128, 1024, 8192, 65536]), 512, FULL)
    # Beyond some hundreds the answer's own cache begins to weigh.
    over_answers = plan.speed_up(512, np.array([2, 8, 32, 128]), FULL)
    assert (np.diff(over_prompts) < 0).all()
    assert (np.diff(over_answers) > 0).all()
    assert 1 < over_answers[0] < over_answers[-1] < plan.limit
    assert plan.limit == pytest.approx(2.585, abs=0.01)


def test_gains_reach_the_limit_where_only_weights_count():
    plan = planned(prompt=1, answer=2)
    floors = [plan.step(name, plan.machine.perfect) for name in (FULL, TWO_STAGE)]
    assert floors[0] / floors[1] == pytest.approx(plan.limit, rel=1e-3)


def test_fixed_time_eats_the_gain():
    """A layer of 1.2 ms, as an eager stack takes: the 1 % that the paper's lab reports of its own.

    28.2 tokens/s of the 3B, 28.5 of the pair, 29.4 of a 1B: none waits for memory.
    """
    plan = planned()
    slow = dataclasses.replace(plan.machine.reached, layer=1.2e-3)
    machine = dataclasses.replace(plan.machine, reached=slow)
    full, two_stage = (plan.step(name, machine) for name in (FULL, TWO_STAGE))
    assert 1 / full == pytest.approx(28.2, rel=0.05)
    assert 1 < full / two_stage < 1.04


def test_narrow_weights_and_caches_are_faster_and_smaller():
    plans = [planned(weights=w, batch=8) for w in ("bfloat16", "int8", "int4")]
    for wide, narrow in itertools.pairwise(plans):
        assert narrow.step(TWO_STAGE, narrow.machine) < wide.step(TWO_STAGE, wide.machine)
        assert narrow.memory()["decoder weights"] < wide.memory()["decoder weights"]
        assert narrow.step(FULL, narrow.machine) == wide.step(FULL, wide.machine)
    caches = [planned(cache=c, batch=64, prompt=8192) for c in ("bfloat16", "int8")]
    assert caches[1].step(TWO_STAGE, caches[1].machine) < caches[0].step(
        TWO_STAGE, caches[0].machine
    )
    assert caches[1].memory()["cache"] < 0.6 * caches[0].memory()["cache"]


def test_lengths_where_it_pays_are_the_first_and_the_last():
    plan = planned(prompt=60_000, answer=256, cache="int8", weights="int4")
    for gain in (1.5, 1.2):
        longest = plan.longest_prompt(gain)
        assert plan.speed_up(longest, 256, FULL) >= gain > plan.speed_up(longest + 1, 256, FULL)
    shortest = plan.shortest_answer()
    assert 2 < shortest < 256
    around = plan.speed_up(60_000, np.array([shortest - 1, shortest]), FULL)
    assert around[0] <= 1 < around[1]


def test_gains_rise_from_the_full_model_s_to_those_without_refresh():
    gains = [planned(refresh=refresh).speed_up(512, 1024, FULL) for refresh in (1, 2, 8, 64, 0)]
    assert gains == sorted(gains)
    assert gains[0] == 1 < gains[1]


def test_blocks_of_one_token_are_the_full_model():
    plan = planned(refresh=1)
    assert plan.times[TWO_STAGE].decode == 0
    assert plan.times[TWO_STAGE].refresh == plan.times[FULL].decode
    assert plan.shortest_answer() is None


def test_a_token_behind_a_block_costs_a_block():
    """From 10 tokens on an answer takes two blocks of 8, which pay only from 12 on."""
    plan = planned(refresh=8)
    assert plan.least == 8
    pays = plan.speed_up(512, np.arange(8, 14), FULL) > 1
    assert pays.tolist() == [True, True, False, False, True, True]
    assert plan.shortest_answer() == 12


def test_memory_by_hand():
    memory = planned(batch=4, prompt=1000, answer=24, cache="int8", chips=2).memory()
    assert memory["cache"] == 4 * 1024 * 2 * 28 * 4 * (128 + 2)
    assert memory["while reading"] == 4 * 1000 * max(
        2 * (2 * 3072 + 3 * 4096), 2 * 28 * 4 * 2 * 128
    )
    assert memory["full weights"] == pytest.approx(3.213e9, rel=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch", 0, "plan.batch: found 0, expected at least 1"),
        ("prompt", 0, "plan.prompt: found 0, expected at least 1"),
        ("answer", 1, "plan.answer: found 1, expected at least 2"),
        ("answer", 128, "plan.prompt, plan.answer: found 64 and 128 tokens, expected at most 128"),
        ("weights", "int5", "plan.weights: found 'int5', did you mean 'int.'"),
        ("cache", "INT8", "plan.cache: found 'INT8', did you mean 'int8'"),
        ("cache", "int4", "plan.cache: found 'int4'.*Expected one of bfloat16, int8"),
        ("refresh", -1, "plan.refresh: found -1, expected 0"),
        ("refresh", 33, "plan.refresh: found 33, expected 0 .none. or .* up to plan.answer, 32"),
        ("chips", 0, "plan.chips: found 0, expected a divisor of the model's 2 kv heads"),
        ("chips", 4, "plan.chips: found 4, expected a divisor of the model's 2 kv heads"),
    ],
)
def test_bad_input(key, value, message):
    plan = section(**{"prompt": 64, "answer": 32, key: value})
    with pytest.raises(InputError, match=message):
        plan_inference(plan, CONFIG, CONFIG, CHIPS["v5e"])
