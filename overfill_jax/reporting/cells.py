"""What the cells of an experiment ran with: settings of their own, and under which versions."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from overfill_jax import files, overrides, record
from overfill_jax.evaluation.table import as_markdown, without_empty
from overfill_jax.reporting.section import Section

UNKNOWN = (
    "What the cells changed is not known, for there is no `configs/{}`; `experiment`, run again, "
    "writes it, and does nothing twice."
)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What the stages of a cell have recorded.

    Attributes:
      changed: settings that are not those of the experiment, each KEY=VALUE.
      versions: of all its stages, each once.
    """

    changed: tuple[str, ...]
    versions: tuple[str, ...]


def cells_sections(workdir: Path) -> Iterator[Section]:
    """A section for every experiment, folded; its title tells versions that differ.

    Raises:
      InputError: a record of settings that is broken.
    """
    for path in sorted(workdir.glob("experiments/*/experiment.json")):
        yield cells_section(files.read_object(path), path.parent, workdir / "configs")


def cells_section(found: dict[str, Any], folder: Path, configs: Path) -> Section:
    """Of one, from what its experiment.json holds."""
    own = configs / f"experiment.{found['name']}.yaml"
    base = record.read_config(own).settings if own.exists() else {}
    ran = [read_ran(folder / cell["folder"], base) for cell in found["cells"]]
    versions = list(dict.fromkeys(one for cell in ran for one in cell.versions))
    stages = base.get("experiment", {}).get("stages", ())
    parts = [
        f"Stages: {', '.join(f'`{stage}`' for stage in stages)}."
        if base
        else UNKNOWN.format(own.name),
        as_markdown(table_of(found, ran, versions), numbers=False),
        told_versions(versions),
    ]
    many = f", under {len(versions)} versions" if len(versions) > 1 else ""
    return Section(f"Cells{many}: {found['title']}", "\n\n".join(filter(None, parts)), True)


def read_ran(folder: Path, base: dict[str, Any]) -> Ran:
    """Of the cell in a folder, against the settings of the experiment."""
    stages = [record.read_config(path) for path in sorted(folder.glob("configs/*.yaml"))]
    changed = [one for stage in stages for one in changes(base, stage.settings)]
    versions = [stage.versions for stage in stages]
    return Ran(tuple(dict.fromkeys(changed)), tuple(dict.fromkeys(versions)))


def changes(base: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Settings that differ, but for the seed and for what a stage of every cell sets itself."""
    before = record.flat(base)
    of_stages = [
        pair
        for text in before.get("experiment.stages", ())
        for pair in overrides.parse(text.split()[1:], "experiment.stages").items()
    ]
    return [
        f"{key}={value}"
        for key, value in record.flat(settings).items()
        if key in before and value != before[key]
        if not any(key == own and _resolves(wanted, value) for own, wanted in of_stages)
        if key != "seed" and not key.startswith("experiment.")
    ]


def _resolves(wanted: Any, value: Any) -> bool:
    """Whether a setting became this value in some cell, whose folder `{workdir}` stands for."""
    if not (isinstance(wanted, str) and isinstance(value, str)):
        return wanted == value
    return re.fullmatch(".+".join(map(re.escape, wanted.split("{workdir}"))), value) is not None


def table_of(found: dict[str, Any], ran: Sequence[Ran], versions: Sequence[str]) -> list[list[str]]:
    """Cells of a table: rows of one experiment, those that differ in the seed alone as one."""
    names = {one: str(number) for number, one in enumerate(versions, 1)}
    seeds: dict[tuple[str, ...], list[str]] = {}
    for cell, own in zip(found["cells"], ran, strict=True):
        changed = "\n".join(own.changed) if own.versions else "nothing recorded"
        under = ", ".join(names[one] for one in versions if one in own.versions)
        key = cell["row"], cell["series"], changed, under if len(versions) > 1 else ""
        seeds.setdefault(key, []).append(str(cell["seed"]))
    header = [found["x"] or "cell", "series", "changed", "versions", "seeds"]
    return without_empty([header, *([*key, ", ".join(of_key)] for key, of_key in seeds.items())])


def told_versions(versions: Sequence[str]) -> str:
    """Them, and in bold what is not the same in all."""
    if len(versions) < 2:
        return "".join(f"All ran under {one}." for one in versions)
    parts = [one.split(", ") for one in versions]
    same = set.intersection(*map(set, parts))
    lines = [
        f"{number}. {', '.join(part if part in same else f'**{part}**' for part in of_one)}"
        for number, of_one in enumerate(parts, 1)
    ]
    return "\n".join(["Versions, with what is not the same in bold:\n", *lines])
