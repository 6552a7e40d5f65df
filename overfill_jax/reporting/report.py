"""The report stage: everything that the stages of a workdir have found, as one page.

It writes `report.html`, which needs no other file, and `report.md`, whose figures lie in the
workdir.
"""

from collections.abc import Iterator
from pathlib import Path

import ml_collections
import yaml

from overfill_jax import files, record
from overfill_jax.errors import InputError
from overfill_jax.reporting.answers import answers_section
from overfill_jax.reporting.cells import cells_sections
from overfill_jax.reporting.decode_time import decode_time_section
from overfill_jax.reporting.page import as_page
from overfill_jax.reporting.pruned import pruned_section
from overfill_jax.reporting.section import Section, as_document, from_document

# What other stages tell in Markdown, in the order of the report.
DOCUMENTS = (
    "report/report.md",
    "scores/*/scores.md",
    "harness/*/harness.md",
    "experiments/*/report.md",
    "benchmark/*.md",
    "plan/plan.md",
)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Gathers and writes; computes nothing but a few figures.

    Raises:
      InputError: nothing to tell, or a file of the workdir that is broken.
    """
    count = config.report.samples
    if count < 0:
        raise InputError(f"report.samples: found {count}, expected at least 0")
    page, document = workdir / "report.html", workdir / "report.md"
    files.check_writable(page, document, workdir / "report" / "importance.png")
    sections = list(gather(workdir, count))
    if not sections:
        raise InputError(
            f"{workdir}: nothing to report; expected what `prune`, `train`, `evaluate`, `score`, "
            "`benchmark`, `plan` or `experiment` write"
        )
    sections += config_sections(workdir)
    title = f"Two-stage decoding: {workdir.resolve().name}"
    files.write_text(document, as_document(title, sections))
    files.write_text(page, as_page(title, sections, workdir))
    print(page, flush=True)


def gather(workdir: Path, samples: int) -> Iterator[Section]:
    """The sections for which there is something in the workdir."""
    own = workdir / "report"
    documents = [path for pattern in DOCUMENTS for path in sorted(workdir.glob(pattern))]
    for path in documents:
        yield from_document(path, workdir)
        if samples and path.name == "scores.md":
            yield answers_section(path.parent, f"Answers: {path.parent.name}", samples)
        if samples:
            yield from cell_answers(path.parent, samples)
    made = (decode_time_section(workdir, own), pruned_section(workdir, own))
    yield from filter(None, made)
    curves = sorted(workdir.glob("metrics/*/curves.png"))
    if curves and own / "report.md" not in documents:  # which shows them itself
        images = [f"![{p.parent.name}]({p.relative_to(workdir).as_posix()})" for p in curves]
        yield Section("Training", "\n\n".join(images))


def cell_answers(experiment: Path, samples: int) -> Iterator[Section]:
    """Answers of an experiment's first cell that has any, which stand for those of all cells."""
    found = sorted(experiment.glob("cells/*/scores/*/scores.md"))
    for scores in found:
        cell = scores.parts[-4]
        if cell == found[0].parts[-4]:
            yield answers_section(
                scores.parent, f"Answers: {scores.parent.name}, cell {cell}", samples
            )


def config_sections(workdir: Path) -> list[Section]:
    """The versions that write this, what cells changed, and every stage's settings and versions."""
    versions = Section("Configs and versions", f"This report: {record.versions()}.")
    paths = sorted(workdir.glob("configs/*.yaml"))
    return [versions, *cells_sections(workdir), *map(settings_section, paths)]


def settings_section(path: Path) -> Section:
    """Of one stage, folded.

    Raises:
      InputError: the file is not what a stage records.
    """
    found = record.read_config(path)
    settings = yaml.safe_dump(found.settings, allow_unicode=True)
    body = f"```yaml\n# {found.when}\n# {found.versions}\n{settings}```"
    return Section(f"Settings of {path.stem}", body, True)
