"""Where the numbers of a run go: console, `metrics.jsonl`, TensorBoard."""

import json
import time
from pathlib import Path

from absl import logging
from tensorboardX import SummaryWriter

from overfill_jax import distributed, files
from overfill_jax.errors import InputError

FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends scalars of a run to its folder and prints them with the time left.

    A resumed run drops what was written after the step it goes on from, so that no step
    appears twice. Of several processes only the first writes.
    """

    def __init__(self, folder: Path, steps: int, start: int):
        self._steps, self._start = steps, start
        # The first step compiles; the clock starts behind it.
        self._clock: tuple[int, float] | None = None
        self._main = distributed.is_main()
        if not self._main:
            return
        path = folder / FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= start] if start else []
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, float], shown: bool) -> None:
        """Records `values` under `step`, and if `shown` prints them as one line."""
        if not self._main:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if shown:
            line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            logging.info("step %d/%d  %s  %s", step, self._steps, line, self._left(step))

    def _left(self, step: int) -> str:
        if step == self._start:
            return "before going on"
        if self._clock is None:
            self._clock = step, time.monotonic()
            return "compiled"
        first, began = self._clock
        left = (time.monotonic() - began) / max(step - first, 1) * (self._steps - step)
        return f"{_duration(left)} left"

    def flush(self) -> None:
        """Puts on disk what TensorBoard's writer would keep back for minutes."""
        if self._main:
            self._board.flush()

    def close(self) -> None:
        if self._main:
            self._file.close()
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, float | int]]:
    """The rows of a run's metrics; none where it has not started.

    A last line that is cut short, as a killed process leaves it, is passed over.

    Raises:
      InputError: another line is not JSON.
    """
    path = folder / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise InputError(f"{path}:{number}: not JSON ({error})") from error
    return rows


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
