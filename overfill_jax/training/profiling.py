"""A profiler trace of a few steps, for TensorBoard or Perfetto."""

from pathlib import Path

import jax
from absl import logging


class Profiler:
    """Traces the steps `start .. start + count - 1`; none where `start` is 0."""

    def __init__(self, folder: Path, start: int, count: int):
        self._folder = folder
        self._start, self._stop = start, start + count
        self._tracing = False

    def at(self, step: int, before: object) -> None:
        """Called before each step; `before` is what the last one returned, ready or not.

        The device lags behind, and the trace is of its work.
        """
        if self._start and step == self._start:
            jax.block_until_ready(before)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        elif self._tracing and step >= self._stop:
            jax.block_until_ready(before)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            logging.info("profile of steps from %d in %s", self._start, self._folder)
