"""What a report tells of the cells of an experiment, from what their stages have recorded."""

import json

import pytest

from configs.default import get_config
from overfill_jax import record
from overfill_jax.errors import InputError
from overfill_jax.experiments.cells import cells_of
from overfill_jax.overrides import with_settings
from overfill_jax.reporting import report
from overfill_jax.reporting.cells import cells_sections

STAGES = ("prune prune.multiple_of=8", "train train.learning_rate=1e-4 train.freeze=none")


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An experiment of two rows and two seeds, as the stage `experiment` leaves it."""
    monkeypatch.setattr(record, "versions", lambda: "overfill_jax (abc), jax 1")
    config = get_config()
    config.experiment.update(
        {
            "name": "sizes",
            "title": "Sizes",
            "x": "share",
            "rows": ("much: prune.hidden=1 prune.selection=first", "little: attention=xla"),
            "seeds": (0, 1),
            "stages": STAGES,
        }
    )
    record.write_config(tmp_path / "configs" / "experiment.sizes.yaml", config)
    folder = tmp_path / "experiments" / "sizes"
    folder.mkdir(parents=True)
    told = []
    for cell in cells_of(config):
        name = {"row": cell.row, "series": cell.series, "seed": cell.seed}
        told.append({**name, "folder": f"cells/{cell.folder}"})
        for text in STAGES:
            stage, *settings = text.split()
            changed = with_settings(cell.config, settings, "experiment.stages")
            record.write_config(folder / f"cells/{cell.folder}/configs/{stage}.yaml", changed)
    found = {"name": "sizes", "title": "Sizes", "x": "share", "cells": told}
    (folder / "experiment.json").write_text(json.dumps(found))
    (folder / "report.md").write_text("# Sizes\n\nAll of them.\n")
    return tmp_path


def cell(workdir, name):
    return workdir / "experiments" / "sizes" / "cells" / name / "configs" / "train.yaml"


def test_a_cell_tells_what_it_changed_and_not_what_all_of_them_do(workdir):
    (section,) = cells_sections(workdir)
    assert section.title == "Cells: Sizes" and section.folded
    assert section.body.splitlines() == [
        f"Stages: `{STAGES[0]}`, `{STAGES[1]}`.",
        "",
        "| share | changed | seeds |",
        "|---|---|---|",
        "| much | prune.hidden=1.0<br>prune.selection=first | 0, 1 |",
        "| little | attention=xla | 0, 1 |",
        "",
        "All ran under overfill_jax (abc), jax 1.",
    ]


def test_a_cell_of_another_version_stands_out(workdir, monkeypatch):
    monkeypatch.setattr(record, "versions", lambda: "overfill_jax (def), jax 1")
    record.write_config(cell(workdir, "little_seed-1").with_name("prune.yaml"), get_config())
    (section,) = cells_sections(workdir)
    assert section.title == "Cells, under 2 versions: Sizes"
    lines = section.body.splitlines()
    assert "| little | attention=xla | 1 | 0 |" in lines
    assert any(line.startswith("| little | ") and line.endswith(" | 1, 2 | 1 |") for line in lines)
    assert "1. **overfill_jax (abc)**, jax 1" in lines
    assert "2. **overfill_jax (def)**, jax 1" in lines


def test_a_setting_that_nobody_asked_for_is_told(workdir):
    config = get_config()
    config.train.steps = 7
    config.attention = "xla"
    config.seed = 1
    record.write_config(cell(workdir, "little_seed-1"), config)
    (section,) = cells_sections(workdir)
    assert "| little | attention=xla | 0 |" in section.body
    assert "train.steps=7 | 1 |" in section.body


def test_a_setting_of_all_cells_within_their_folders_is_not_told(workdir):
    path = workdir / "configs" / "experiment.sizes.yaml"
    config = get_config()
    source = "train.source={workdir}/data/train.jsonl"
    config.experiment.update({"name": "sizes", "stages": (STAGES[0], f"{STAGES[1]} {source}")})
    record.write_config(path, config)
    for row in ("much", "little"):
        for seed in (0, 1):
            of_cell = cell(workdir, f"{row}_seed-{seed}")
            changed = with_settings(get_config(), STAGES[1].split()[1:], "experiment.stages")
            changed.train.source = f"{of_cell.parents[1]}/data/train.jsonl"
            record.write_config(of_cell, changed)
    (section,) = cells_sections(workdir)
    assert "train.source" not in section.body.partition("\n")[2]
    changed.train.source = "elsewhere.jsonl"
    record.write_config(of_cell, changed)
    (section,) = cells_sections(workdir)
    assert "train.source=elsewhere.jsonl | 1 |" in section.body


def test_a_cell_that_recorded_nothing(workdir):
    for path in cell(workdir, "much_seed-0").parent.iterdir():
        path.unlink()
    (section,) = cells_sections(workdir)
    assert "| much | nothing recorded | 0 |" in section.body


def test_settings_of_an_experiment_that_are_gone(workdir):
    (workdir / "configs" / "experiment.sizes.yaml").unlink()
    (section,) = cells_sections(workdir)
    assert section.body.startswith("What the cells changed is not known, for there is no `configs/")
    assert "| little | 0, 1 |" in section.body and "changed |" not in section.body


def test_a_broken_record_is_named(workdir):
    cell(workdir, "much_seed-0").write_text("seed: 1\n")
    with pytest.raises(InputError, match=r"much_seed-0/configs/train\.yaml: "):
        list(cells_sections(workdir))


def test_page_and_document_tell_the_cells(workdir):
    report.run(get_config(), workdir)
    page, document = ((workdir / f"report.{end}").read_text() for end in ("html", "md"))
    assert "<details><summary>Cells: Sizes</summary>" in page
    assert "prune.hidden=1.0<br>prune.selection=first" in page
    assert "## Cells: Sizes" in document and "## Settings of experiment.sizes" in document
