"""The loop: steps, metrics, validation, checkpoints; resumes where the last checkpoint stands."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax

from overfill_jax.data.batches import Batch
from overfill_jax.errors import InputError
from overfill_jax.model.transformer import Params
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.step import Metrics, Setup, TrainState, train_step, validation_sums
from overfill_jax.weights.checkpoints import Checkpoints

# In this order on the console.
SHOWN = ("loss", "cross_entropy", "kl", "gradient_norm", "learning_rate", "tokens")


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
    first = int(state.step) + 1
    pending: tuple[int, Metrics] | None = None

    def look() -> None:
        if pending:
            values = finite(*pending)
            if pending[0] in (first, steps) or pending[0] % intervals.log == 0:
                writer.write(pending[0], values)

    for step in range(first, steps + 1):
        state, metrics = train_step(setup, state, frozen, batch_at(step - 1))
        look()
        pending = step, metrics
        validate = step % intervals.validate == 0 or step == steps
        if validate or step % intervals.checkpoint == 0:
            look()
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


def finite(step: int, metrics: Metrics) -> dict[str, float]:
    """The metrics of a step on the host.

    Raises:
      InputError: loss or gradient norm is not finite.
    """
    fetched = jax.device_get(metrics)
    values = {name: float(fetched[name]) for name in SHOWN}
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(values[name]):
            raise InputError(
                f"training stopped at step {step}: {name} is {values[name]}; the last good "
                "checkpoint is kept. A lower train.learning_rate or train.clip_norm may help"
            )
    return values
