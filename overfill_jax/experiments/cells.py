"""The cells of an experiment: every row with every series and seed, each a config and a folder."""

import dataclasses
import re
from collections.abc import Sequence

import ml_collections

from overfill_jax.errors import InputError
from overfill_jax.overrides import with_settings


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One choice of settings.

    Attributes:
      row, series: what they are called.
      seed: of all its stages.
      config: with the settings.
    """

    row: str
    series: str
    seed: int
    config: ml_collections.ConfigDict

    @property
    def folder(self) -> str:
        """The name of its folder, which no other cell's is."""
        parts = (self.row, self.series, f"seed {self.seed}")
        return "_".join(re.sub(r"[^\w.+-]+", "-", part) for part in parts if part)

    @property
    def title(self) -> str:
        """What log lines and tables call it."""
        return ", ".join(filter(None, (self.row, self.series, f"seed {self.seed}")))


def cells_of(config: ml_collections.ConfigDict) -> list[Cell]:
    """All cells, seed after seed, so that the first seed's figure is whole first.

    Raises:
      InputError: no row, series or seed, two of one name, or settings that the config lacks.
    """
    c = config.experiment
    for name in ("rows", "series", "seeds"):
        if not c[name]:
            raise InputError(f"experiment.{name}: found none, expected at least one")
    cells = [
        Cell(row, series, seed, _with(config, row_settings, series_settings, seed))
        for seed in c.seeds
        for row, row_settings in _named(c.rows, "rows")
        for series, series_settings in _named(c.series, "series")
    ]
    folders = [cell.folder for cell in cells]
    for cell in cells:
        if folders.count(cell.folder) > 1:
            raise InputError(
                f"experiment: found two cells {cell.folder!r}, expected every row, series and seed "
                "once"
            )
    return cells


def _named(entries: Sequence[str], key: str) -> list[tuple[str, list[str]]]:
    """Names with their settings, of "NAME: KEY=VALUE KEY=VALUE"; an empty entry is the config."""
    found = []
    for entry in entries:
        name, colon, settings = entry.partition(": ")
        if entry and not colon:
            raise InputError(
                f"experiment.{key}: found {entry!r}, expected 'NAME: KEY=VALUE KEY=VALUE'"
            )
        found.append((name.strip(), settings.split()))
    return found


def _with(
    config: ml_collections.ConfigDict, row: list[str], series: list[str], seed: int
) -> ml_collections.ConfigDict:
    changed = with_settings(config, row, "experiment.rows")
    changed = with_settings(changed, series, "experiment.series")
    return with_settings(changed, [f"seed={seed}"], "experiment.seeds")
