"""The experiment stage: cells one by one, each a few stages with settings of its own, and what came
of them in figures and tables; into `experiments/NAME/`.

A run that was stopped goes on with the stage that it was in; on SIGTERM a training saves first, and
goes on with its next step. A cell that fails is told and marked; the others go on. Of two processes
on one workdir, the one that comes to stages which the other is running ends there.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax import files, record
from overfill_jax.errors import InputError
from overfill_jax.experiments.cells import Cell, cells_of
from overfill_jax.experiments.figure import draw
from overfill_jax.experiments.lines import lines_of, table_of, undefined_in
from overfill_jax.experiments.lock import HeldError
from overfill_jax.experiments.measures import MEASURES, Source, check_measures
from overfill_jax.experiments.report import as_lines, write
from overfill_jax.experiments.runs import all_done, check_done, link_inputs, run_stages, seconds_of

RECORD = "done.json"

# Of each cell, why it failed; '' of one that is done, None of one that is still open.
Outcomes = Mapping[Cell, str | None]


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Runs all cells that are not done; draws after each.

    Raises:
      InputError: settings that make no experiment, a stage before the cells that fails, stages
        that another process is running, or, at the end, cells that failed.
    """
    c = config.experiment
    if not c.name or "/" in c.name:
        raise InputError(f"experiment.name: found {c.name!r}, expected the name of a folder")
    cells = cells_of(config)
    check_measures(tuple(c.measures), tuple(c.systems))
    folder = workdir / "experiments" / c.name
    files.check_writable(folder / "experiment.json")
    for cell in cells:
        check_done(c.stages, cell.config, folder / "cells" / cell.folder / RECORD, workdir)
    run_stages(c.shared, config, workdir, workdir / "experiments" / "shared.json", workdir)
    record.write_config(record.config_path(workdir, "experiment", config), config)
    outcomes = run_cells(cells, config, folder, workdir)
    print(as_lines(files.read_object(folder / "experiment.json")))
    failed = {cell.title: error for cell, error in outcomes.items() if error}
    if failed:
        first = next(iter(failed.items()))
        raise InputError(
            f"{folder}: {len(failed)} of {len(cells)} cells failed; {first[0]}: {first[1]}"
        )


def run_cells(
    cells: Sequence[Cell], config: ml_collections.ConfigDict, folder: Path, workdir: Path
) -> Outcomes:
    """Measures the cells that are done already, then runs the others one by one.

    Tells of all cells before and after each of these, so that no report lacks what is done.
    """
    outcomes: dict[Cell, str | None] = dict.fromkeys(cells)
    stages = config.experiment.stages
    left = []
    for cell in cells:
        if all_done(stages, folder / "cells" / cell.folder / RECORD):
            outcomes[cell] = run_cell(cell, config, cells, folder, workdir)
        else:
            left.append(cell)
    tell(config, outcomes, folder, workdir)
    began = time.monotonic()
    for number, cell in enumerate(left, 1):
        logging.info("cell %d of the %d that are left: %s", number, len(left), cell.title)
        outcomes[cell] = run_cell(cell, config, cells, folder, workdir)
        tell(config, outcomes, folder, workdir)
        minutes = (time.monotonic() - began) / number * (len(left) - number) / 60
        logging.info("%d of %d cells, %.0f min left", number, len(left), minutes)
    return outcomes


def run_cell(
    cell: Cell,
    config: ml_collections.ConfigDict,
    cells: Iterable[Cell],
    folder: Path,
    workdir: Path,
) -> str:
    """Runs the stages that are left of a cell and reads every measure once.

    Returns why it failed, '' if it did not.

    Raises:
      HeldError: another process is running it.
    """
    source = source_of(cell, config, cells, folder, workdir)
    try:
        link_inputs(source.cell, workdir)
        done = source.cell / RECORD
        run_stages(config.experiment.stages, cell.config, source.cell, done, workdir)
        for name in config.experiment.measures:
            MEASURES[name].read(source)
    except HeldError:
        raise  # the cell has not failed
    except (InputError, OSError) as error:
        logging.error("%s failed: %s", cell.title, error)
        return str(error)
    except Exception as error:  # whatever it is, the other cells go on
        logging.exception("%s failed", cell.title)
        return f"{type(error).__name__}: {error}"
    return ""


def tell(
    config: ml_collections.ConfigDict, outcomes: Outcomes, folder: Path, workdir: Path
) -> None:
    """Draws every measure of the cells that are done, and writes the report of all of them."""
    c = config.experiment
    sources = {cell: source_of(cell, config, outcomes, folder, workdir) for cell in outcomes}
    failed = [cell.row for cell, error in outcomes.items() if error]
    tables, figures, undefined = [], [], []
    for name in c.measures:
        measure = MEASURES[name]
        points = {cell: measure.read(at) for cell, at in sources.items() if outcomes[cell] == ""}
        lines = lines_of(measure, points)
        draw(measure, c.title, c.x, lines, failed, folder / f"{name}.png")
        undefined += [f"{measure.axis}: {one}" for one in undefined_in(points)]
        figures.append({"file": f"{name}.png", "title": f"{c.title}: {measure.axis}"})
        if measure.tabled and lines:
            tables.append({"title": measure.axis, "cells": table_of(measure, c.x, lines)})
    cells = [
        {
            "row": cell.row,
            "series": cell.series,
            "seed": cell.seed,
            "status": "open" if error is None else "failed" if error else "done",
            "error": error or "",
            "seconds": seconds_of(sources[cell].cell / RECORD),
            "folder": f"cells/{cell.folder}",
        }
        for cell, error in outcomes.items()
    ]
    found = {"name": c.name, "title": c.title, "x": c.x, "cells": cells}
    write({**found, "figures": figures, "tables": tables, "undefined": undefined}, folder)


def source_of(
    cell: Cell,
    config: ml_collections.ConfigDict,
    cells: Iterable[Cell],
    folder: Path,
    workdir: Path,
) -> Source:
    """Where the numbers of one of the cells are."""
    c = config.experiment
    first = next(one for one in cells if one.seed == cell.seed)
    return Source(
        cell=folder / "cells" / cell.folder,
        first=folder / "cells" / first.folder,
        workdir=workdir,
        systems=tuple(c.systems),
        full_tokens=c.full_tokens,
    )
