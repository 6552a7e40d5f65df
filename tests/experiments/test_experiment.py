"""An experiment on a tiny model: every cell once, resumed, failed, and what is told of them."""

import json
import os
import shutil
from pathlib import Path

import matplotlib.image
import pytest

from configs.default import get_config
from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.experiments import experiment, runs
from overfill_jax.experiments.lock import HeldError, locked
from overfill_jax.experiments.measures import Measure, Point
from overfill_jax.overrides import with_settings
from overfill_jax.stages import run_stage
from tests.small_run import SHAPE, make_config


def configure(workdir):
    config = make_config(workdir)
    config.experiment.update(
        {
            "name": "widths",
            "title": "Width of the pruned model",
            "shared": ("data", "init", "calibrate calibrate.samples=4"),
            "stages": ("prune prune.intermediate=0.25", "evaluate evaluate.rows=4"),
            "x": "hidden width",
            "rows": ("8: prune.hidden=8", "99: prune.hidden=99"),
            "series": ("important: ", "first: prune.selection=first"),
            "systems": ("full", "pruned_untrained"),
            "measures": ("accuracy", "loss", "positions", "overlap"),
        }
    )
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with a run whose two cells of width 99 have failed."""
    workdir = tmp_path_factory.mktemp("experiment")
    (workdir / "shape.json").write_text(json.dumps(SHAPE))
    with pytest.raises(InputError, match=r"2 of 4 cells failed; 99, important, .*found width 99"):
        run_stage("experiment", configure(workdir), workdir)
    return workdir


def found(workdir):
    return json.loads((workdir / "experiments/widths/experiment.json").read_text())


def test_all_cells_are_told(workdir):
    cells = found(workdir)["cells"]
    assert [(cell["row"], cell["series"], cell["status"]) for cell in cells] == [
        (row, series, "failed" if row == "99" else "done")
        for row in ("8", "99")
        for series in ("important", "first")
    ]
    assert all("99" in cell["error"] for cell in cells if cell["status"] == "failed")
    assert all(cell["seconds"] > 0 for cell in cells if cell["status"] == "done")
    assert "name: widths" in (workdir / "configs" / "experiment.widths.yaml").read_text()


def test_numbers_are_those_of_the_stages(workdir):
    folder = workdir / "experiments/widths"
    tables = {table["title"]: table["cells"] for table in found(workdir)["tables"]}
    header, *rows = tables["answer loss (nats per token)"]
    assert header == [
        "hidden width",
        *(f"{s}, {m}" for s in ("important", "first") for m in ("full", "pruned, untrained")),
    ]
    assert [row[0] for row in rows] == ["8"]
    for row in rows:
        for series, cells in (("important", row[1:3]), ("first", row[3:5])):
            for system, cell in zip(("full", "pruned_untrained"), cells, strict=True):
                path = folder / f"cells/{row[0]}_{series}_seed-0/results/{system}.json"
                loss = json.loads(path.read_text())["loss"]["total"]["loss"]
                assert float(cell) == pytest.approx(loss, rel=1e-3)
    _, (row, *shares) = tables["kept channels that the first cell keeps, too"]
    assert (row, shares[:2]) == ("8", ["1", "1"])  # with itself
    assert all(0 < float(share) < 1 for share in shares[2:])


def test_numbers_that_are_not_defined_are_named(workdir, monkeypatch, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "copy", symlinks=True)
    config = configure(folder)
    config.experiment.update({"rows": ("8: prune.hidden=8",), "measures": ("undefined",)})
    measure = Measure("share", lambda source: [Point("full", None)])
    monkeypatch.setitem(experiment.MEASURES, "undefined", measure)
    run_stage("experiment", config, folder)
    report = (folder / "experiments/widths/report.md").read_text()
    assert "| 8 | undefined | undefined |" in report
    assert "not defined\n\n- share: 8, important, seed 0, full\n- share: 8, first" in report


def test_a_figure_stands_for_every_measure(workdir):
    folder = workdir / "experiments/widths"
    for figure in found(workdir)["figures"]:
        assert matplotlib.image.imread(folder / figure["file"]).shape[0] > 300
    report = (folder / "report.md").read_text()
    assert report.count("![") == 4
    assert report.count("- 99, ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, pytest.param(True, marks=pytest.mark.long)])
def test_nothing_is_done_twice(workdir, monkeypatch, tmp_path, moved):
    asked = []
    if moved:
        workdir = shutil.copytree(workdir, tmp_path / "moved", symlinks=True)
        monkeypatch.chdir(tmp_path)
        workdir = workdir.relative_to(tmp_path)

    def refuse(stage, *_):
        asked.append(stage)
        raise InputError("no more")

    monkeypatch.setattr(runs, "run_stage", refuse)
    with pytest.raises(InputError, match=r"2 of 4 cells failed; .*no more"):
        run_stage("experiment", configure(workdir), workdir)
    assert asked == ["prune", "prune"]  # of the cells that failed


def test_a_machine_that_is_taken_away_ends_it_between_two_stages(workdir, monkeypatch, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "copy", symlinks=True)
    cells = folder / "experiments/widths/cells"
    for cell in cells.iterdir():
        (cell / "done.json").unlink(missing_ok=True)
    asked, config = [], configure(folder)
    config.experiment.measures = ()
    monkeypatch.setattr(runs, "run_stage", lambda stage, *_: asked.append(stage))
    monkeypatch.setattr(distributed, "preempted", lambda: bool(asked))
    for _ in range(2):
        with pytest.raises(distributed.Preempted, match=r"ended in 'evaluate .* of 8_impor"):
            run_stage("experiment", config, folder)
        assert asked == ["prune"]  # which is not done twice
        assert [cell["status"] for cell in found(folder)["cells"]] == ["open"] * 4


def test_what_is_done_stays_told_while_other_cells_are_open(workdir, monkeypatch, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "copy", symlinks=True)
    config = configure(folder)
    config.experiment.rows = ("16: prune.hidden=16", *config.experiment.rows)

    def end(*_):
        raise distributed.Preempted

    monkeypatch.setattr(runs, "run_stage", end)
    with pytest.raises(distributed.Preempted):
        run_stage("experiment", config, folder)
    told = found(folder)
    statuses = {(cell["row"], cell["status"]) for cell in told["cells"]}
    assert statuses == {("16", "open"), ("8", "done"), ("99", "open")}
    assert told["tables"][:2] == found(workdir)["tables"][:2]
    report = (folder / "experiments/widths/report.md").read_text()
    assert "\n\n4 of 6 cells open: 16, important, seed 0; 16, first, seed 0; 99, imp" in report
    assert "cells open" not in (workdir / "experiments/widths/report.md").read_text()


def test_a_cell_that_does_not_hold_what_is_measured_has_failed(workdir, monkeypatch):
    monkeypatch.setattr(runs, "run_stage", lambda *_: None)
    config = configure(workdir)
    config.experiment.systems = ("full", "scratch")  # which no stage trains
    folder = workdir / "experiments/widths"
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"4 of 4 cells failed; 8, important, .*scratch\.json"):
        run_stage("experiment", config, workdir)
    assert [cell["status"] for cell in found(workdir)["cells"]] == ["failed"] * 4
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("lost", "lock"),
    [
        ("shared.json", "shared.lock"),
        ("widths/cells/8_first_seed-0/done.json", "widths/cells/8_first_seed-0/done.lock"),
    ],
)
def test_stages_are_not_run_by_two_processes(workdir, monkeypatch, tmp_path, lost, lock):
    folder = shutil.copytree(workdir, tmp_path / "copy", symlinks=True)
    (folder / "experiments" / lost).unlink()
    config = configure(folder)
    config.experiment.update({"rows": ("8: prune.hidden=8",), "measures": ()})
    monkeypatch.setattr(runs, "run_stage", lambda *_: None)
    with locked(folder / "experiments" / lock):  # another process is as good as another open file
        with pytest.raises(HeldError, match=rf"{lock}: held by process {os.getpid()} on "):
            run_stage("experiment", config, folder)
        assert not (folder / "experiments" / lost).exists()
    run_stage("experiment", config, folder)
    assert (folder / "experiments" / lost).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("calibrate.length=47", r"shared\.json: .*calibrate\.length=48, now it is 47"),
        (
            "evaluate.max_new_tokens=9",
            r"8_important_seed-0.*evaluate\.max_new_tokens=8, now it is 9",
        ),
        ("experiment.stages=('evaluate',)", r"found 'prune .*' done, expected 'evaluate'"),
    ],
)
def test_other_settings_do_not_mix_with_what_is_done(workdir, monkeypatch, change, said):
    monkeypatch.setattr(runs, "run_stage", lambda *_: pytest.fail("a stage was run"))
    before = found(workdir)
    with pytest.raises(InputError, match=said):
        run_stage("experiment", with_settings(configure(workdir), [change], "change"), workdir)
    assert found(workdir) == before


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("benchmark benchmark.subject=inference", "prune.hidden=8"),
        ("benchmark benchmark.subject=inference", "quantise.group=32"),
        ("benchmark benchmark.subject=train", "train.batch_size=3"),
        ("harness", "generate.refresh=every"),
        ("plan", "prune.hidden=8"),
        ("prune", "calibrate.batch_size=3"),
        ("prune", "calibrate.dtype=bfloat16"),
        ("train", "attention=xla"),
    ],
)
def test_settings_of_other_sections_that_a_stage_reads_do_not_mix(
    tmp_path, monkeypatch, stage, change
):
    monkeypatch.setattr(runs, "run_stage", lambda *_: None)
    config, record = make_config(tmp_path), tmp_path / "done.json"
    runs.run_stages([stage], config, tmp_path, record, tmp_path)
    runs.check_done([stage], config, record, tmp_path)
    with pytest.raises(InputError, match=f"was done with {change.partition('=')[0]}="):
        runs.check_done([stage], with_settings(config, [change], "change"), record, tmp_path)


def test_a_stage_is_not_refused_for_what_it_does_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run_stage", lambda *_: None)
    config, record = make_config(tmp_path), tmp_path / "done.json"
    runs.run_stages(["init", "train", "evaluate"], config, tmp_path, record, tmp_path)
    done = json.loads(record.read_text())["stages"]
    assert [("attention" in stage["settings"]) for stage in done] == [False, True, False]
    del done[1]["settings"]["attention"]  # as in a record of before it was kept
    record.write_text(json.dumps({"stages": done}))
    changed = with_settings(config, ["attention=xla", "mesh.fsdp=2"], "change")
    runs.check_done(["init", "train", "evaluate"], changed, record, tmp_path)


@pytest.mark.parametrize("name", [".", "a", "train", "/b"])
def test_a_record_does_not_depend_on_what_the_workdir_is_called(tmp_path, monkeypatch, name):
    monkeypatch.setattr(runs, "run_stage", lambda *_: None)
    record = tmp_path / "done.json"

    def config(workdir):
        settings = [f"train.source={workdir}/data/train.jsonl", "train.split=train"]
        return with_settings(get_config(), settings, "change")

    runs.run_stages(["train"], config(name), tmp_path, record, Path(name))
    for other in (tmp_path, Path()):
        runs.check_done(["train"], config(other), record, other)
    elsewhere = with_settings(config(name), [f"train.source=c{name}/train.jsonl"], "change")
    with pytest.raises(InputError, match=r"train\.source='{workdir}/data/train.jsonl', now it is"):
        runs.check_done(["train"], elsewhere, record, Path(name))


def test_data_of_a_cell_does_not_take_the_place_of_what_all_share(tmp_path):
    config = make_config(tmp_path)
    run_stage("data", config, tmp_path)
    shared = [tmp_path / "data/train.jsonl", tmp_path / "tokenizer/tokenizer.model"]
    before = [path.read_bytes() for path in shared]
    config.experiment.update({"stages": ("data data.train_rows=3",), "measures": ()})
    run_stage("experiment", config, tmp_path)
    assert [path.read_bytes() for path in shared] == before
    (cell,) = tmp_path.glob("experiments/*/cells/*/")
    assert sorted(path.name for path in cell.iterdir()) == [
        "configs", "data", "done.json", "done.lock", "tokenizer",
    ]  # fmt: skip
    own = [cell / path.relative_to(tmp_path) for path in shared]
    assert all(path.read_bytes() != old for path, old in zip(own, before, strict=True))


def test_a_stage_before_the_cells_that_fails_stops_all(tmp_path):
    config = configure(tmp_path)
    config.experiment.shared = ("convert convert.source=nowhere",)
    with pytest.raises(InputError, match="nowhere"):
        run_stage("experiment", config, tmp_path)
    assert not (tmp_path / "experiments/widths").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a/b"}, r"experiment\.name: found 'a/b'"),
        ({"measures": ("speed",)}, r"experiment\.measures: found 'speed', expected some of acc"),
        ({"systems": ("teacher",)}, r"experiment\.systems: found 'teacher'"),
    ],
)
def test_settings_that_make_no_experiment_are_refused(tmp_path, changes, said):
    config = configure(tmp_path)
    config.experiment.update(changes)
    with pytest.raises(InputError, match=said):
        run_stage("experiment", config, tmp_path)
