"""Scores as they lie in scores/TASK/: one file of each system, from which the table is made."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from overfill_jax import files
from overfill_jax.evaluation.exam import Exam
from overfill_jax.evaluation.lengths import Lengths
from overfill_jax.evaluation.scores import Estimate, Score
from overfill_jax.evaluation.systems import System, find_misfit, find_systems


def save(score: Score, settings: Mapping[str, Any], folder: Path) -> None:
    """Writes `<system>.json`."""
    stored = dataclasses.asdict(score) | {"settings": settings}
    files.write_json(folder / f"{score.system.name}.json", stored)


def gather(exam: Exam, folder: Path, workdir: Path) -> list[Score]:
    """The stored scores of this exam, by models that the workdir has, whichever run found them.

    Those of other settings, or of models that have changed since, are told and left out.

    Raises:
      InputError: a file that is broken.
    """
    found = []
    for system in find_systems(workdir)[0]:
        path = folder / f"{system.name}.json"
        if not path.exists():
            continue
        stored = files.read_object(path)
        reason = find_misfit(system, workdir, exam.first_token) or _difference(
            stored.get("settings", {}), exam.described(system, workdir)
        )
        if reason:
            logging.warning("%s: left out of scores.md; %s", path, reason)
        else:
            found.append(_score(system, stored))
    return found


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first of two systems' settings that differ, in words; '' where they are the same."""
    for name in new:
        if old.get(name) != new[name]:
            return f"it was found with {name}={old.get(name)!r}, now it is {new[name]!r}"
    return ""


def _score(system: System, stored: Mapping[str, Any]) -> Score:
    lengths = stored["lengths"]
    return Score(
        system=system,
        metrics={name: Estimate(**found) for name, found in stored["metrics"].items()},
        groups={name: Estimate(**found) for name, found in stored["groups"].items()},
        questions=stored["questions"],
        lengths=None if lengths is None else Lengths(**lengths),
    )
