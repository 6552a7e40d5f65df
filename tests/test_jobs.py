"""Jobs of several hosts: what one suffers is told by all, and other machines learn the same."""

import gc
import json
import runpy
import shutil

import jax
import pytest

from overfill_jax.data import tfds_rows
from overfill_jax.stages import run_stage
from overfill_jax.weights import checkpoints
from overfill_jax.weights.folders import load_model
from tests.interruptions import (
    TWO_HOSTS,
    Machines,
    end,
    finish,
    forget,
    interrupt,
    learnt,
    start,
)

pytestmark = pytest.mark.long

STEPS = 40  # of `trained`
SAVES = "checkpoints/two_stage"
LIMIT = 150  # seconds from start to end; where processes wait for each other, it is minutes


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_other_machines_learn_the_same(trained, copy):
    forget(copy)
    alone = finish(copy, Machines(1, 1, (1, 1, 1)))
    forget(copy)
    assert_close(learnt(trained), alone)
    event = interrupt(copy, Machines(1, 8, (2, 2, 2)), "SIGKILL in a save", seconds=0.0)
    assert event.met(20), event
    assert_close(finish(copy, Machines(1, 4, (1, 4, 1))), alone)


def assert_close(found, expected):
    """The first twenty losses, and the examples of all steps."""
    assert found.keys() == expected.keys()
    for step in found:
        assert found[step]["tokens"] == expected[step]["tokens"], step
        if step <= 20:
            assert found[step]["loss"] == pytest.approx(expected[step]["loss"], abs=1e-5), step


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


def damage_part_of_one_process(step):
    files = list(step.glob("state/ocdbt.process_1/d/*"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100])


def test_an_interrupted_and_damaged_job_learns_the_same(copy):
    """Killed in a save, told to end, and then what one process has saved is damaged."""
    expected = learnt(copy)
    forget(copy)
    for kind in ("SIGKILL in a save", "SIGTERM"):
        event = interrupt(copy, TWO_HOSTS, kind, seconds=0.0)
        assert event.met(STEPS), event
    newest = event.saved
    before = max(int(step.name) for step in (copy / SAVES).glob("*") if step.name != str(newest))
    (copy / SAVES / f"{newest}.damaged").mkdir()  # of an earlier misfortune
    damage_part_of_one_process(copy / SAVES / str(newest))
    ended = end(start(copy, TWO_HOSTS), LIMIT)
    for status, text in ended:
        assert status == 0, text
    assert f"{newest}: damaged checkpoint" in ended[0][1]
    assert f"it is now {newest}.damaged-2. Going on from step {before}" in ended[0][1]
    left = {path.name for path in (copy / SAVES).iterdir()}
    assert left >= {str(STEPS), f"{newest}.damaged", f"{newest}.damaged-2"}
    assert learnt(copy) == expected


def test_a_save_that_one_process_cannot_write_ends_all(copy):
    forget(copy)
    for status, text in end(start(copy, TWO_HOSTS, largest_file=20), LIMIT):
        assert status == 2, text
        (error,) = errors(text)
        assert error.startswith(
            f"error: process 1: {copy / SAVES}: a checkpoint cannot be written ("
        )
        assert "Traceback" not in text
    assert (copy / "configs/train.two_stage.yaml").exists()  # of a run that did not end well


@pytest.fixture(scope="module")
def refused(trained, tmp_path_factory):
    """What both processes say to settings that do not work, each under its name."""
    folder = tmp_path_factory.mktemp("refused")
    workdir = shutil.copytree(trained, folder / "run")
    hosts = [folder / "host0", folder / "host1"]
    for index, host in enumerate(hosts):
        host.mkdir()
        row = {"prompt": f"host {index}", "response": "its own"}
        (host / "own.jsonl").write_text(json.dumps(row) + "\n")
    built = folder / "built"
    tfds_rows.build({"train": lambda: [(1, b"{}")]}, built)
    next(built.rglob("dataset_info.json")).unlink()
    jobs = {
        "batch": ["train.batch_size=7"],
        "mesh": ["mesh.data=3"],
        "few rows": ["train.batch_size=800"],
        "other run": ["train.learning_rate=0.5", "seed=3"],
        "half-written": [f"train.source={built}"],
        "other sources": ["train.source=own.jsonl"],
    }
    running = {name: start(workdir, TWO_HOSTS, changes, hosts) for name, changes in jobs.items()}
    yield {name: end(processes, LIMIT) for name, processes in running.items()}
    assert [path.name for path in (workdir / "tokens").iterdir() if "own" in path.name] == []
    assert "learning_rate: 0.01" in (workdir / "configs/train.two_stage.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("batch", ["train.batch_size: found 7, expected a multiple of 2"]),
        ("mesh", ["mesh: found data 3", "does not fit 4 devices"]),
        ("few rows", ["training data: found ", "expected at least one batch of 800"]),
        ("other run", ["seed was 0, is 3", "train.learning_rate was 0.01, is 0.5"]),
        ("half-written", ["built: "]),
        ("other sources", ["own.jsonl: found different contents", " in process 0, "]),
    ],
)
def test_what_is_refused_every_process_says_in_one_line(refused, name, messages):
    for status, text in refused[name]:
        assert status == 2, text
        (error,) = errors(text)
        assert all(message in error for message in messages), error
        assert "Traceback" not in text


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_the_devices_hold_the_state_once(copy, monkeypatch):
    """Both when a run goes on and at its end, what is read comes beside the full model alone."""
    loads = {}
    load = checkpoints.load_tree

    def spy(folder, abstract, partial=False):
        gc.collect()
        loads[folder.name] = size(abstract), size(jax.live_arrays()) - before
        return load(folder, abstract, partial)

    full = size(load_model(copy / "full").params)
    shutil.rmtree(copy / SAVES / "40")
    monkeypatch.setattr(checkpoints, "load_tree", spy)
    gc.collect()
    before = size(jax.live_arrays())
    run_stage("train", runpy.run_path(str(copy / "config.py"))["get_config"](), copy)
    (state, resumed), (weights, ended) = loads["35"], loads["40"]
    assert state > 2.9 * weights > full / 2
    assert resumed < full + 0.1 * state
    assert ended < full + 0.1 * state
