"""A run that is killed and goes on learns what it would have learnt; `interruptions.py` does more.

Bit for bit, on the same devices; what other meshes learn is in `training/test_mesh.py`.
"""

import pytest

from tests.interruptions import compare


@pytest.mark.parametrize(("processes", "kinds"), [(1, ("SIGKILL", "SIGTERM")), (2, ("SIGTERM",))])
def test_an_interrupted_run_learns_the_same(tmp_path, processes, kinds):
    events, same = compare(tmp_path, 80, len(kinds), processes, kinds, seed=1)
    assert same
    assert any(0 < event.saved < 80 for event in events), events  # it was interrupted indeed
    for event in events:
        # SIGTERM is no failure; a process that loses the other ends as well.
        assert event.signal == "SIGKILL" or event.status == 0, events
