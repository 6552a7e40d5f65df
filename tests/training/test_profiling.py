"""A trace holds the steps that were asked for, whole."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import pytest

from overfill_jax.training.loop import SHOWN, Intervals, Watch, fit
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.pace import Pace
from overfill_jax.training.profiling import Profiler
from overfill_jax.training.step import TrainState
from overfill_jax.weights.checkpoints import Checkpoints

STEPS = 8


@jax.jit
def step_once(state, batch):
    """Takes a while, and returns before it is done."""
    weights = jax.lax.fori_loop(
        0, 200, lambda _, x: jnp.tanh(x @ x), state.params["decoder"]["x"] + batch
    )
    params = {"decoder": {"x": weights}}
    metrics = dict.fromkeys(SHOWN, weights.mean())
    return dataclasses.replace(state, step=state.step + 1, params=params), metrics


def train(folder, profiler):
    watch = Watch(MetricsWriter(folder, STEPS, 0), Pace(1.0, None), profiler)
    state = TrainState(jnp.int32(0), {"decoder": {"x": jnp.ones((128, 128)) / 128}}, ())
    rarely = Intervals(100, 100, 100)
    with Checkpoints(folder / "checkpoints", 1) as checkpoints:
        batches = itertools.repeat(jnp.float32(0.0))
        fit(step_once, lambda _: 1.0, state, batches, STEPS, rarely, checkpoints, watch)
    watch.close()


@pytest.mark.slow
@pytest.mark.parametrize(("start", "expected"), [(3, [3, 4]), (STEPS, [STEPS]), (0, [])])
def test_the_trace_is_of_the_steps_asked_for(tmp_path, start, expected):
    train(tmp_path, Profiler(tmp_path / "profile", start, 2))
    traces = list(tmp_path.rglob("*.xplane.pb"))
    assert len(traces) == bool(expected)
    found = []
    for trace in traces:
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                found += [dict(e.stats)["step_num"] for e in line.events if e.name == "train"]
    assert found == expected


def test_a_trace_ends_only_when_its_steps_are_done(tmp_path, monkeypatch):
    profiler, done = Profiler(tmp_path, 2, 1), []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda _: done.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: done.append("stop"))
    monkeypatch.setattr(jax, "block_until_ready", done.append)
    for step in range(1, 5):
        profiler.at(step, f"metrics of {step - 1}")
    assert done == ["metrics of 1", "start", "metrics of 2", "stop"]
