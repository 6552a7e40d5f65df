"""Which systems a workdir holds: pairs of a model that reads the prompt and one that answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import logging
from jax.sharding import Mesh

from overfill_jax.errors import InputError
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model
from overfill_jax.weights.folders import load_config, load_fingerprint, load_model, load_origin
from overfill_jax.weights.origin import misfit


@dataclasses.dataclass(frozen=True)
class System:
    """A reader and a writer; a model alone is both.

    Attributes:
      name: of the result's file.
      title: in tables and plots.
      reader, writer: folders of the workdir.
    """

    name: str
    title: str
    reader: str
    writer: str

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that it needs, each once."""
        return tuple(dict.fromkeys((self.reader, self.writer)))


PRUNED = "pruned"
FULL = System("full", "full", "full", "full")
TWO_STAGE = System("two_stage", "two-stage", "full", "decoder")
PRUNED_TUNED = System(
    "pruned_tuned", "pruned, tuned", "baselines/pruned_tuned", "baselines/pruned_tuned"
)
SYSTEMS = (
    FULL,
    System("full_tuned", "full, tuned", "baselines/full_tuned", "baselines/full_tuned"),
    TWO_STAGE,
    System("joint", "two-stage, joint", "joint/full", "joint/decoder"),
    PRUNED_TUNED,
    System("scratch", "scratch", "baselines/scratch", "baselines/scratch"),
    # What training behind the cache does to the decoder by itself, and what the cache does alone.
    System("decoder_alone", "decoder alone", "decoder", "decoder"),
    System("pruned_untrained", "pruned, untrained", PRUNED, PRUNED),
    System("pruned_two_stage_untrained", "two-stage, untrained", "full", PRUNED),
)


def find_systems(workdir: Path) -> tuple[list[System], list[System]]:
    """The systems whose folders are there, and those that miss one.

    Raises:
      InputError: there is no full model.
    """
    if not (workdir / FULL.reader).is_dir():
        raise InputError(
            f"{workdir / FULL.reader}: no such folder, expected the full model; "
            "run `convert` (or `init` and `train`) first"
        )
    present = [s for s in SYSTEMS if not missing_folders(s, workdir)]
    return present, [s for s in SYSTEMS if s not in present]


def missing_folders(system: System, workdir: Path) -> list[str]:
    """The folders that a system needs and the workdir lacks."""
    return [folder for folder in system.folders if not (workdir / folder).is_dir()]


def choose_fitting(systems: Sequence[System], workdir: Path, first_token: str) -> list[System]:
    """The systems that belong to the full and the pruned model that the workdir has now.

    The others, of a former full model or cut or of another first token, are told and left out:
    beside the rest they would be a comparison of nothing.

    Raises:
      InputError: nothing but the full model is left; with the reason of the first left out.
    """
    reasons = {system: find_misfit(system, workdir, first_token) for system in systems}
    fitting = [system for system, reason in reasons.items() if not reason]
    left_out = {system: reason for system, reason in reasons.items() if reason}
    if left_out and fitting == [FULL]:
        raise InputError(
            f"{workdir}: no system belongs to its models; {next(iter(left_out.values()))}"
        )
    for system, reason in left_out.items():
        logging.warning("%s: left out; %s", system.title, reason)
    folders = dict.fromkeys(folder for system in fitting for folder in system.folders)
    for folder in folders:
        if folder != FULL.reader and load_origin(workdir / folder) is None:
            logging.warning("%s: says not what it came from; taken as it is", workdir / folder)
    return fitting


def find_misfit(system: System, workdir: Path, first_token: str) -> str:
    """Why a system does not belong to the workdir's full and pruned model; '' where it does."""
    for folder in system.folders:
        origin = load_origin(workdir / folder)
        if folder == FULL.reader or origin is None:
            continue
        # Of a pair that was trained together, the writer is of its reader's making.
        alone = folder == system.reader
        full = load_fingerprint(workdir / (FULL.reader if alone else system.reader))
        pruned = load_fingerprint(workdir / PRUNED) if (workdir / PRUNED).is_dir() else None
        if reason := misfit(origin, full, pruned, None if alone else first_token):
            return f"{workdir / folder}: {reason}"
    return ""


def swap_models(
    models: dict[str, Model], system: System, workdir: Path, dtype: str, mesh: Mesh
) -> None:
    """Makes `models`, by folder, those of `system`; the full one stays, for most systems read it.

    The old ones go before the new ones come, so that never more than three are in memory.
    """
    for folder in models.keys() - {FULL.reader, *system.folders}:
        del models[folder]
    for folder in system.folders:
        if folder not in models:
            path = workdir / folder
            models[folder] = load_model(path, dtype, weight_shardings(load_config(path), mesh))
