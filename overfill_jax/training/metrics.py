"""Where the numbers of a run go: console, `metrics.jsonl`, TensorBoard."""

import json
import time
from pathlib import Path

from absl import logging
from tensorboardX import SummaryWriter

from overfill_jax import files
from overfill_jax.errors import InputError


class MetricsWriter:
    """Appends scalars of a run to its folder and prints them with the rate and the time left.

    A resumed run drops what was written after the step it goes on from, so that no step
    appears twice.
    """

    def __init__(self, folder: Path, steps: int, start: int):
        self._steps = steps
        # The first step compiles; the clock starts behind it.
        self._clock: tuple[int, float] | None = None
        self._path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["step"] <= start] if start else []
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records `values` under `step` and prints one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        logging.info("step %d/%d  %s  %s", step, self._steps, shown, self._pace(step))

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def _pace(self, step: int) -> str:
        if self._clock is None:
            self._clock = step, time.monotonic()
            return "compiled"
        first, began = self._clock
        rate = max(step - first, 1) / (time.monotonic() - began)
        return f"{rate:.3g} steps/s, {_duration((self._steps - step) / rate)} left"


def read_metrics(folder: Path) -> list[dict[str, float | int]]:
    """The rows of a run's `metrics.jsonl`; none where it has not started.

    Raises:
      InputError: a line is not JSON.
    """
    path = folder / "metrics.jsonl"
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not JSON ({error})") from error
    return rows


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
