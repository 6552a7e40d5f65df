"""The loop: steps, metrics, validation, checkpoints; ends early on a notice of preemption."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from overfill_jax import distributed
from overfill_jax.data.batches import Batch
from overfill_jax.errors import InputError
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.pace import Pace
from overfill_jax.training.profiling import Profiler
from overfill_jax.training.step import Metrics, TrainState, state_tree
from overfill_jax.weights.checkpoints import Checkpoints

# In this order on the console.
SHOWN = (
    "loss",
    "cross_entropy",
    "kl",
    "gradient_norm",
    "learning_rate",
    "tokens",
    "all_tokens",
    "filled",
)


@dataclasses.dataclass(frozen=True)
class Intervals:
    """In steps: when to show metrics, validate, save. The last step does all three."""

    log: int
    validate: int
    checkpoint: int


@dataclasses.dataclass(frozen=True)
class Watch:
    """What looks on: the metrics' writer, speed, and a profiler."""

    writer: MetricsWriter
    pace: Pace
    profiler: Profiler

    def close(self) -> None:
        """Closes all of them, also where one of them cannot."""
        with contextlib.ExitStack() as stack:
            for one in (self.writer, self.pace, self.profiler):
                stack.callback(one.close)


def fit(
    step_once: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    validation_loss: Callable[[TrainState], float],
    state: TrainState,
    batches: Iterator[Batch],
    steps: int,
    intervals: Intervals,
    checkpoints: Checkpoints,
    watch: Watch,
) -> None:
    """Trains from `state.step` to `steps`; what comes of it is in `checkpoints`.

    Metrics are looked at one step late, so that the device never waits for the host, and before
    every save, so that no checkpoint holds a diverged state.

    Args:
      step_once: one step; its state is donated.
      validation_loss: mean loss per answer token.
      state: to begin with.
      batches: from that of step `state.step` on.
      steps: number of the last step.
      intervals: of logging, validation and checkpoints.
      checkpoints: of this run.
      watch: who is told.

    Raises:
      InputError: a loss, gradient or weight is not finite; the checkpoints saved before remain.
      Preempted: the machine is about to be taken away; the state is saved.
    """
    first = int(state.step) + 1
    make_up(state, validation_loss, intervals, checkpoints, watch)
    pending: tuple[int, Metrics] | None = None

    def look() -> None:
        if pending:
            values = watch.pace.add(*finite(*pending))
            shown = pending[0] in (first, steps) or pending[0] % intervals.log == 0
            rates = watch.pace.read() if shown else {}
            watch.writer.write(pending[0], values | rates, shown)

    for step in range(first, steps + 1):
        watch.profiler.at(step, pending)
        with watch.pace.waiting():
            batch = next(batches)
        with watch.pace.stepping(step), jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = step_once(state, batch)
        look()
        pending = step, metrics
        preempted = distributed.preempted()
        validate = step == steps or (step % intervals.validate == 0 and not preempted)
        if validate or preempted or step % intervals.checkpoint == 0:
            look()
            pending = None
            with watch.pace.paused():
                scores = {"validation_loss": validation_loss(state)} if validate else None
                keep(step, state, scores, checkpoints.save, watch.writer)
        if preempted and step < steps:
            checkpoints.wait()
            raise distributed.Preempted(f"saved after step {step} of {steps}")


def make_up(
    state: TrainState,
    validation_loss: Callable[[TrainState], float],
    intervals: Intervals,
    checkpoints: Checkpoints,
    watch: Watch,
) -> None:
    """Validates the state that a run goes on from, if a preemption has left no time for it.

    Without its loss, the best of the run could be another than if nothing had happened.

    Raises:
      InputError: see `check_finite`.
    """
    step = int(state.step)
    if step and step % intervals.validate == 0 and not checkpoints.has_loss(step):
        with watch.pace.paused():
            scores = {"validation_loss": validation_loss(state)}
            keep(step, state, scores, checkpoints.replace, watch.writer)


def keep(
    step: int,
    state: TrainState,
    scores: dict[str, float] | None,
    save: Callable[..., None],
    writer: MetricsWriter,
) -> None:
    """Saves a state, with its validation loss if it has one.

    Raises:
      InputError: see `check_finite`.
    """
    if scores:
        writer.write(step, scores, shown=True)
    check_finite(step, state, scores)
    writer.flush()  # a run that is killed never tells again what lies before its checkpoint
    save(step, state_tree(state), scores)


def finite(step: int, metrics: Metrics) -> tuple[int, dict[str, float]]:
    """The metrics of a step on the host, behind its number.

    Raises:
      InputError: loss or gradient norm is not finite.
    """
    fetched = jax.device_get(metrics)
    values = {name: float(fetched[name]) for name in SHOWN}
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(values[name]):
            raise _diverged(step, f"{name} is {values[name]}")
    return step, values


def check_finite(step: int, state: TrainState, scores: dict[str, float] | None) -> None:
    """Keeps a state out of the checkpoints that its own last update has spoilt.

    Raises:
      InputError: a weight or the validation loss is not finite.
    """
    for name, value in (scores or {}).items():
        if not math.isfinite(value):
            raise _diverged(step, f"{name} is {value}")
    if not bool(_all_finite(state.params)):
        raise _diverged(step, "a weight is not finite")


@jax.jit
def _all_finite(params: dict) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def _diverged(step: int, what: str) -> InputError:
    return InputError(
        f"training stopped at step {step}: {what}; the last good checkpoint is kept. "
        "A lower train.learning_rate or train.clip_norm may help"
    )
