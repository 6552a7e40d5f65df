"""Runs that are killed learn what they would have learnt; `interruptions.py` kills more often."""

import shutil

import pytest

from tests.interruptions import Machines, finish, forget, interrupt, learnt

STEPS = 40


@pytest.fixture(scope="module")
def own(prepared, tmp_path_factory):
    return shutil.copytree(prepared, tmp_path_factory.mktemp("interruptions") / "run")


@pytest.fixture
def workdir(own):
    yield own
    forget(own)


@pytest.mark.parametrize(
    ("processes", "kinds"),
    [
        (1, ("SIGKILL", "SIGKILL in a save", "SIGTERM at the start")),
        (2, ("SIGKILL in a save", "SIGTERM")),
    ],
)
def test_an_interrupted_run_learns_the_same(workdir, processes, kinds):
    machines = Machines(processes, 2 // processes, (1, 2, 1))
    expected = finish(workdir, machines)
    forget(workdir)
    for kind in kinds:
        event = interrupt(workdir, machines, kind, seconds=0.0)
        assert event.met(STEPS), event
    assert finish(workdir, machines) == expected


def test_other_machines_learn_the_same(workdir, trained):
    alone = finish(workdir, Machines(1, 1, (1, 1, 1)))
    forget(workdir)
    assert_close(learnt(trained), alone)
    event = interrupt(workdir, Machines(1, 8, (2, 2, 2)), "SIGKILL in a save", seconds=0.0)
    assert event.met(20), event
    assert_close(finish(workdir, Machines(1, 4, (1, 4, 1))), alone)


def assert_close(found, expected):
    """The first twenty losses, and the examples of all steps."""
    assert found.keys() == expected.keys()
    for step in found:
        assert found[step]["tokens"] == expected[step]["tokens"], step
        if step <= 20:
            assert found[step]["loss"] == pytest.approx(expected[step]["loss"], abs=1e-5), step
