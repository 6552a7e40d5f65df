"""What is said of a run's speed: rates, waiting, and steps that are compiled again."""

import time

import jax
import jax.numpy as jnp
import pytest

from overfill_jax.training.pace import Pace


@pytest.fixture
def pace():
    pace = Pace(flops=1e9, peak=1e12)
    yield pace
    pace.close()


def test_rates_leave_out_compilation_and_pauses(pace):
    pace.add(1, {"tokens": 1e9})
    assert pace.read() == {}
    with pace.waiting():
        time.sleep(0.1)
    with pace.paused():
        time.sleep(0.3)
    for step in (2, 3):
        pace.add(step, {"tokens": 50.0})
    found = pace.read()
    # Two steps and 100 tokens in a tenth of a second, all of it waiting.
    assert 5 < found["steps_per_second"] < 20
    assert found["answer_tokens_per_second"] == pytest.approx(50 * found["steps_per_second"])
    assert found["teraflops_per_chip"] == pytest.approx(found["steps_per_second"] / 1000)
    assert found["mfu"] == pytest.approx(found["teraflops_per_chip"])
    assert 0.5 < found["waiting_for_data"] <= 1
    assert pace.read() == {}


def test_a_step_that_is_compiled_again_is_named(pace, caplog):
    step_once = jax.jit(lambda x: x * 3 + 1)
    for step, size in ((1, 3), (2, 4), (3, 4), (4, 5)):
        with pace.stepping(step):
            step_once(jnp.zeros(size))
        if step > 1:  # a step is looked at behind the next one, as the loop does it
            pace.add(step - 1, {"tokens": 1.0})
    warnings = [r.getMessage() for r in caplog.records if "compiled again" in r.getMessage()]
    assert warnings == [
        f"step {step} was compiled again; batches should have one shape" for step in (2, 4)
    ]
