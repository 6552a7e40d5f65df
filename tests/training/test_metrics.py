"""What is written of a run, and what of it a kill leaves."""

import jax.numpy as jnp

from overfill_jax.training.loop import keep
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.step import TrainState
from overfill_jax.weights.checkpoints import Checkpoints


def test_what_a_checkpoint_has_behind_it_tensorboard_has_on_disk(tmp_path, monkeypatch):
    """A run that is killed goes on behind its checkpoint, and never tells again what was before."""
    found = []

    def save(*_):
        files = (tmp_path / "tensorboard").iterdir()
        found.extend(b"learning_rate" in file.read_bytes() for file in files)

    writer = MetricsWriter(tmp_path, 9, 0)
    writer.write(1, {"learning_rate": 0.5}, shown=False)
    state = TrainState(jnp.int32(1), {"decoder": {"x": jnp.ones(2)}}, ())
    with Checkpoints(tmp_path / "saves", 1) as checkpoints:
        monkeypatch.setattr(checkpoints, "save", save)
        keep(1, state, None, checkpoints, writer)
    writer.close()
    assert found == [True]
