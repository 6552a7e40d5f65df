"""What came of an experiment, for programs (experiment.json), for readers and for the console."""

from pathlib import Path
from typing import Any

from overfill_jax import files
from overfill_jax.evaluation.table import as_markdown, as_text, beginning, escaped


def write(found: dict[str, Any], folder: Path) -> None:
    """Writes experiment.json and report.md; `found` is what the former holds."""
    files.write_json(folder / "experiment.json", found)
    sections = [f"# {found['title']}", *_open(found)]
    sections += [f"![{escaped(one['title'])}]({one['file']})" for one in found["figures"]]
    for one in found["tables"]:
        sections += [f"## {one['title']}", as_markdown(one["cells"])]
    if found["undefined"]:
        lines = "\n".join(f"- {escaped(one)}" for one in found["undefined"])
        sections += ["## Numbers that are not defined", lines]
    if failures := _failures(found):
        told = "\n".join(f"- {escaped(beginning(one))}" for one in failures)
        sections += ["## Cells that failed", told]
    files.write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def as_lines(found: dict[str, Any]) -> str:
    """Title, tables and failures."""
    tables = [f"{one['title']}\n{as_text(one['cells'])}" for one in found["tables"]]
    return "\n\n".join([found["title"], *tables, *_failures(found)])


def _open(found: dict[str, Any]) -> list[str]:
    """A sentence about the cells that nothing is known of yet, if there are any."""
    titles = [_title(one) for one in found["cells"] if one["status"] == "open"]
    told = f"{len(titles)} of {len(found['cells'])} cells open: {escaped('; '.join(titles))}"
    return [told] if titles else []


def _failures(found: dict[str, Any]) -> list[str]:
    return [f"{_title(one)}: {one['error']}" for one in found["cells"] if one["error"]]


def _title(cell: dict[str, Any]) -> str:
    return ", ".join(filter(None, (cell["row"], cell["series"], f"seed {cell['seed']}")))
