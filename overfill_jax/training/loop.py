"""The loop: steps, metrics, validation, checkpoints; resumes where the last checkpoint stands."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
from absl import logging

from overfill_jax.data.batches import Batch
from overfill_jax.errors import InputError
from overfill_jax.model.transformer import Params
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.step import Metrics, Setup, TrainState, train_step, validation_sums
from overfill_jax.weights.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True)
class Intervals:
    """In steps: when to write metrics, validate, save. The last step does all three."""

    log: int
    validate: int
    checkpoint: int


def fit(
    setup: Setup,
    state: TrainState,
    frozen: dict[str, Params],
    batch_at: Callable[[int], Batch],
    validation: Sequence[Batch],
    steps: int,
    intervals: Intervals,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
) -> TrainState:
    """Trains from `state.step` to `steps`; the batch of a step follows from its number alone.

    Losses are looked at one step late, so that the device never waits for the host, and before
    every save, so that no checkpoint holds a diverged state.

    Returns:
      The state after the last step. The best by validation is in `checkpoints`.

    Raises:
      InputError: a loss or gradient is not finite; the checkpoints saved before it remain.
    """
    pending: tuple[int, Metrics] | None = None
    for step in range(int(state.step) + 1, steps + 1):
        state, metrics = train_step(setup, state, frozen, batch_at(step - 1))
        if pending:
            _look_at(*pending, intervals.log, steps, writer)
        pending = step, metrics
        validate = step % intervals.validate == 0 or step == steps
        if validate or step % intervals.checkpoint == 0:
            _look_at(*pending, intervals.log, steps, writer)
            pending = None
        if validate:
            loss = validation_loss(setup, state, frozen, validation)
            writer.write(step, {"validation_loss": loss})
            checkpoints.save(step, state_tree(state), {"validation_loss": loss})
        elif step % intervals.checkpoint == 0:
            checkpoints.save(step, state_tree(state), None)
    return state


def validation_loss(
    setup: Setup, state: TrainState, frozen: dict[str, Params], batches: Sequence[Batch]
) -> float:
    """Mean loss per counted answer token over all batches."""
    sums = [validation_sums(setup, state.params, frozen, batch) for batch in batches]
    total = jax.tree.map(lambda *values: math.fsum(map(float, values)), *sums)
    return total["loss"] / max(total["tokens"], 1.0)


def state_tree(state: TrainState) -> dict:
    """The state as nested plain containers, the form that checkpoints are kept in."""
    return {"step": state.step, "params": state.params, "optimizer": state.optimizer}


def _look_at(step: int, metrics: Metrics, every: int, steps: int, writer: MetricsWriter) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    broken = [name for name in ("loss", "gradient_norm") if not math.isfinite(values[name])]
    if broken:
        logging.error("step %d: %s", step, values)
        raise InputError(
            f"training stopped at step {step}: {broken[0]} is {values[broken[0]]}; the last good "
            "checkpoint is kept. A lower train.learning_rate or clip_norm may help"
        )
    if step == 1 or step % every == 0 or step == steps:
        writer.write(step, values)
