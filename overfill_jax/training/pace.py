"""How fast training goes: steps, tokens and FLOPs per second, the share of time spent on data."""

import contextlib
import time
from collections.abc import Iterator

import jax
from absl import logging

# What JAX reports under this name once for every program that it compiles.
COMPILED = "/jax/core/compile/backend_compile_duration"


class Pace:
    """Measures between two readings; what lies outside of `paused` counts as training.

    The first step compiles, so the clock starts behind it. A later step that compiles again
    is said so, for nothing in a run should change shape.
    """

    def __init__(self, flops: float, peak: float | None):
        """Begins to count.

        Args:
          flops: of the model in a step, on one chip; what is computed twice counts once.
          peak: FLOP/s of a chip; None where it is not known, and MFU with it.
        """
        self._flops, self._peak = flops, peak
        self._began: float | None = None
        self._compilations = 0
        self._compiled = False
        self._steps = 0
        self._tokens = self._waited = self._pause = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def add(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Takes the metrics of a step that has ended, and returns them."""
        if self._began is None:
            self._restart()
        else:
            self._steps += 1
            self._tokens += values["tokens"]
        return values

    def read(self) -> dict[str, float]:
        """What was measured since the last reading; nothing before two steps have ended."""
        if not self._steps:
            return {}
        seconds = max(time.monotonic() - self._began - self._pause, 1e-9)
        values = {
            "steps_per_second": self._steps / seconds,
            "answer_tokens_per_second": self._tokens / seconds,
            "waiting_for_data": self._waited / seconds,
            "teraflops_per_chip": self._flops * self._steps / seconds / 1e12,
        }
        if self._peak:
            values["mfu"] = self._flops * self._steps / seconds / self._peak
        self._restart()
        return values

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def stepping(self, step: int) -> Iterator[None]:
        """Around the call of a step."""
        before = self._compilations
        yield
        if self._compiled and self._compilations > before:
            logging.warning("step %d was compiled again; batches should have one shape", step)
        self._compiled = True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around validation and saving, which do not count."""
        began = time.monotonic()
        yield
        self._pause += time.monotonic() - began

    def close(self) -> None:
        """Ends the counting of compilations."""
        jax.monitoring.unregister_event_duration_listener(self._count)

    def _restart(self) -> None:
        self._began = time.monotonic()
        self._steps = 0
        self._tokens = self._waited = self._pause = 0.0

    def _count(self, event: str, _: float, **__) -> None:
        self._compilations += event == COMPILED
