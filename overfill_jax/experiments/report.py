"""What came of an experiment, for programs (experiment.json), for readers and for the console."""

from pathlib import Path
from typing import Any

from overfill_jax import files
from overfill_jax.evaluation.table import as_markdown, as_text, escaped


def write(found: dict[str, Any], folder: Path) -> None:
    """Writes experiment.json and report.md; `found` is what the former holds."""
    files.write_json(folder / "experiment.json", found)
    sections = [f"# {found['title']}"]
    sections += [f"![{escaped(one['title'])}]({one['file']})" for one in found["figures"]]
    for one in found["tables"]:
        sections += [f"## {one['title']}", as_markdown(one["cells"])]
    if failures := _failures(found):
        sections += ["## Cells that failed", "\n".join(failures)]
    files.write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def as_lines(found: dict[str, Any]) -> str:
    """Title, tables and failures."""
    tables = [f"{one['title']}\n{as_text(one['cells'])}" for one in found["tables"]]
    return "\n\n".join([found["title"], *tables, *_failures(found)])


def _failures(found: dict[str, Any]) -> list[str]:
    return [
        f"- {', '.join(filter(None, (one['row'], one['series'])))}, seed {one['seed']}: "
        f"{one['error']}"
        for one in found["cells"]
        if one["error"]
    ]
