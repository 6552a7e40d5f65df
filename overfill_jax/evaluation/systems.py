"""Which systems a workdir holds: pairs of a model that reads the prompt and one that answers."""

import dataclasses
from pathlib import Path

from overfill_jax.errors import InputError


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
    System("pruned_untrained", "pruned, untrained", "pruned", "pruned"),
    System("pruned_two_stage_untrained", "two-stage, untrained", "full", "pruned"),
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
