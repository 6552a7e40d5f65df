"""What is written of a run, and what of it a kill leaves."""

import jax.numpy as jnp
from absl import logging

from overfill_jax.training.loop import keep
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.step import TrainState


def test_what_a_checkpoint_has_behind_it_tensorboard_has_on_disk(tmp_path):
    """A run that is killed goes on behind its checkpoint, and never tells again what was before."""
    found = []

    def save(*_):
        files = (tmp_path / "tensorboard").iterdir()
        found.extend(b"learning_rate" in file.read_bytes() for file in files)

    writer = MetricsWriter(tmp_path, 9, 0)
    writer.write(1, {"learning_rate": 0.5}, shown=False)
    state = TrainState(jnp.int32(1), {"decoder": {"x": jnp.ones(2)}}, ())
    keep(1, state, None, save, writer)
    writer.close()
    assert found == [True]


def test_what_is_made_up_for_before_going_on_says_nothing_of_the_pace(tmp_path, monkeypatch):
    """The first step behind it compiles, which no later one does."""
    told = []
    monkeypatch.setattr(logging, "info", lambda text, *values: told.append(values[-1]))
    writer = MetricsWriter(tmp_path, 9, 4)
    for step in (4, 5, 6):
        writer.write(step, {"loss": 0.5}, shown=True)
    writer.close()
    assert told == ["before going on", "compiled", "0:00 left"]
