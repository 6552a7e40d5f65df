"""The harness stage over two small tasks: cut off, with other settings, in two processes."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation import harness
from overfill_jax.reporting import report
from tests.conftest import REPOSITORY, simulated
from tests.evaluation.tasks.files import write_rows

pytest.importorskip("lm_eval")

from tests.evaluation.speakers import count_batches, make_config, make_workdir

TINY = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{question}}}}"
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
WRITTEN = """output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs:
  until: []
  max_gen_toks: 4
"""
GROUP = """group: both
task:
  - written
  - chosen
aggregate_metric_list:
  - metric: acc
"""
CHOSEN = """output_type: multiple_choice
doc_to_target: 0
doc_to_choice: [" A", " B", " C"]
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("workdir"))


@pytest.fixture
def tiny(workdir, tmp_path, monkeypatch):
    """Config of two tasks, of 10 questions to write and of as many with 3 choices; and a workdir of
    its own."""
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    rows = [{"question": "why? " * number, "answer": "2"} for number in range(1, 11)]
    data = write_rows(tmp_path, rows, "tiny.jsonl")
    for name, rest, metric in (("written", WRITTEN, "exact_match"), ("chosen", CHOSEN, "acc")):
        text = TINY.format(name=name, data=data, metric=metric) + rest
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "both.yaml").write_text(GROUP)
    config = make_config()
    config.harness.folder, config.harness.tasks = str(tmp_path), ("written", "chosen")
    config.harness.shots = 0
    tasks = harness.load_tasks(config.harness)  # which takes longer than all the rest
    monkeypatch.setattr(harness, "load_tasks", lambda _: tasks)
    own = tmp_path / "run"
    own.mkdir()
    for name in ("full", "decoder"):
        (own / name).symlink_to(workdir / name)
    return config, own


def test_a_run_that_was_cut_off_asks_only_what_is_left(tiny, monkeypatch):
    config, workdir = tiny
    folder = workdir / "harness/full-decoder"
    whole = count_batches(monkeypatch)
    harness.run(config, workdir)
    results = json.loads((folder / "results.json").read_text())["results"]
    samples = [(folder / f"{name}.jsonl").read_text() for name in ("written", "chosen")]
    assert sum(whole) == 10 + 3 * 10
    assert harness.ONE_TOKEN in (folder / "harness.md").read_text()
    shutil.rmtree(folder)
    begun = 0
    for stop_before in (3, 4):  # in the first kind of requests, and in the second
        with monkeypatch.context() as patch:
            asked = count_batches(patch, stop_before)
            with pytest.raises(KeyboardInterrupt):
                harness.run(config, workdir)
        begun += sum(asked[:-1])
        assert not (folder / "results.json").exists()
    with monkeypatch.context() as patch:
        asked = count_batches(patch)
        harness.run(config, workdir)
        assert 0 < sum(asked) == 40 - begun
        assert json.loads((folder / "results.json").read_text())["results"] == results
        assert [(folder / f"{name}.jsonl").read_text() for name in ("written", "chosen")] == samples
        asked.clear()
        harness.run(config, workdir)
        assert not asked


def test_results_of_other_settings_stay(tiny):
    config, workdir = tiny
    config.harness.tasks, config.harness.limit = ("written",), 1
    harness.run(config, workdir)
    folder = workdir / "harness/full-decoder"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    config.harness.batch_size = 2  # which changes no answer
    for section, key, value in (
        ("harness", "tasks", ("written", "chosen")),
        ("harness", "shots", 1),
        ("harness", "limit", 3),
        ("harness", "chat", False),
        ("generate", "dtype", "bfloat16"),
        ("generate", "refresh", "every"),
    ):
        other = config.copy_and_resolve_references()
        other[section][key] = value
        with pytest.raises(InputError, match=rf"answers.jsonl: .* made with {section}\.{key}="):
            harness.run(other, workdir)
    (workdir / "decoder").unlink()
    (workdir / "decoder").symlink_to("full")
    with pytest.raises(InputError, match=r"answers.jsonl: .* made with writer="):
        harness.run(config, workdir)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_tables_come_to_the_report(tiny):
    config, workdir = tiny
    config.harness.limit = 2
    config.harness.tasks = ("both",)
    harness.run(config, workdir)
    (section,) = report.gather(workdir, 0)
    assert section.title == "lm-eval: full, decoder"
    rows = [[cell.strip() for cell in line.split("|")] for line in section.body.splitlines()]
    values = {(row[1], row[5]): row[7] for row in rows if len(row) > 8}
    found = json.loads((workdir / "harness/full-decoder/results.json").read_text())["results"]
    assert float(values["- written", "exact_match"]) == found["written"]["exact_match,none"]
    assert [row[1] for row in rows if len(row) > 1 and "both" in row[1]] == ["both", "both"]
    assert "`harness.limit=2`" in section.body


def run_in_two(config, workdir):
    """Status and output of both processes, of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    c = config.harness
    command = [
        sys.executable, "-m", "overfill_jax.main", "harness", f"--workdir={workdir}",
        f"--config={REPOSITORY / 'configs/default.py'}", f"--config.harness.folder={c.folder}",
        f"--config.harness.tasks={c.tasks}", "--config.harness.shots=0",
        "--config.harness.batch_size=4", "--config.generate.dtype=float32",
        f"--coordinator={address}", "--processes=2",
    ]  # fmt: skip
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
        "XLA_FLAGS": simulated(2),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [
        subprocess.Popen([*command, f"--process_index={index}"], env=environment, **pipes)
        for index in range(2)
    ]
    try:
        texts = [process.communicate(timeout=150)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, text) for process, text in zip(running, texts, strict=True)]


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_cut_off(tiny):
    config, workdir = tiny
    folder = workdir / "harness/full-decoder"
    harness.run(config, workdir)
    alone = json.loads((folder / "results.json").read_text())["results"]
    lines = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    answers = {row["id"]: row["answer"] for row in map(json.loads, lines)}
    (folder / "results.json").unlink()
    (folder / "answers.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    (status, text), (status_1, text_1) = run_in_two(config, workdir)
    assert (status, status_1) == (0, 0), text + text_1
    assert "Answers: " in text and "half-written" in text
    assert "Answers: " not in text_1 and "half-written" not in text_1
    assert json.loads((folder / "results.json").read_text())["results"] == alone
    found = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    assert found[:5] == lines[:5] and len(found) == len(lines)
    for row in map(json.loads, found):
        assert row["answer"] == pytest.approx(answers[row["id"]], abs=1e-5)
