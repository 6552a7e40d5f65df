"""A run that is killed learns what it would have learnt; `interruptions.py` kills more often."""

import shutil

import pytest

from tests.interruptions import Machines, finish, forget, interrupt

pytestmark = pytest.mark.long

STEPS = 40
MACHINES = Machines(1, 2, (1, 2, 1))


def test_an_interrupted_run_learns_the_same(prepared, tmp_path):
    workdir = shutil.copytree(prepared, tmp_path / "run")
    expected = finish(workdir, MACHINES)
    forget(workdir)
    for kind in ("SIGKILL", "SIGKILL in a save", "SIGTERM at the start"):
        event = interrupt(workdir, MACHINES, kind, seconds=0.0)
        assert event.met(STEPS), event
    assert finish(workdir, MACHINES) == expected
