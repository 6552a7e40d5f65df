"""A short soak; `soak.py` takes thousands of requests."""

import pytest

from tests.soak import soak

pytestmark = pytest.mark.long


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("interval", [0, 3])
def test_mixed_requests_are_answered_refused_or_cancelled_and_leave_nothing_behind(interval):
    outcome = soak(requests=60, checked=60, seed=1, interval=interval)
    assert not outcome.wrong
    assert outcome.counts.pop("times that the queue was full")
    assert sum(outcome.counts.values()) == 60
    assert set(outcome.counts) == {"ended", "cancelled", "refused"}
    assert outcome.checked == outcome.counts["ended"]
    assert outcome.arrays[1] <= outcome.arrays[0] and outcome.bytes[1] <= outcome.bytes[0]
