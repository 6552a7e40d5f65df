"""The real step as the compiler is given it; with libtpu, what it says."""

import importlib.util

import jax
import pytest

from overfill_jax.chips import CHIPS
from overfill_jax.errors import InputError
from overfill_jax.model.mesh import make_mesh
from overfill_jax.planning.compiled import compile_step, tpu_mesh
from overfill_jax.planning.workload import read_workload
from overfill_jax.training.placement import abstract_inputs, compile_steps, make_placement

has_libtpu = importlib.util.find_spec("libtpu") is not None


@pytest.mark.usefixtures("unchecked")
def test_the_inputs_are_those_of_the_step(config):
    """The step accepts them, and gives back a state like the one that it took."""
    config.train.batch_size = 2
    work = read_workload(config, 1)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    placement = make_placement(work.setup, mesh)
    inputs = abstract_inputs(work.setup, placement, work.rows, work.slots, work.frozen_dtype)
    step, _ = compile_steps(work.setup, placement)
    with jax.set_mesh(mesh):
        after, metrics = step.eval_shape(*inputs)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (inputs[0], after)]
    assert shapes[0] == shapes[1]
    assert "loss" in metrics
    assert inputs[2].prompt.shape == inputs[2].prompt_end.shape == (2, 1024)
    assert {x.dtype.name for x in jax.tree.leaves(inputs[1])} == {"bfloat16"}


def test_gpus_are_not_compiled_for(config):
    work = read_workload(config, 16)
    with pytest.raises(InputError, match=r"plan.compile: found chip 'h100', expected a TPU"):
        tpu_mesh(work, CHIPS["h100"], "2x8")


@pytest.mark.skipif(has_libtpu, reason="libtpu is installed")
def test_without_libtpu(config):
    work = read_workload(config, 16)
    with pytest.raises(InputError, match=r"libtpu is not installed.*requirements-tpu-compile"):
        compile_step(work, CHIPS["v5e"], "4x4")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.skipif(not has_libtpu, reason="libtpu is not installed")
class TestWithLibtpu:
    def test_a_step_for_sixteen_chips(self, config):
        found = compile_step(read_workload(config, 16), CHIPS["v5e"], "4x4")
        assert not found.refusal
        assert 0 < found.arguments < found.peak < CHIPS["v5e"].memory
        assert found.collectives["all-reduce"].count > 0

    def test_too_large_a_step_is_refused_in_words(self, config):
        config.train.batch_size, config.train.sequence_length = 16 * 4096, 8192
        config.train.loss_chunk = 4096
        found = compile_step(read_workload(config, 16), CHIPS["v5e"], "4x4")
        assert "exceeds available HBM" in found.refusal
        assert "\n" not in found.refusal

    def test_topologies_that_libtpu_does_not_know(self, config):
        config.train.batch_size = 15
        work = read_workload(config, 15)
        with pytest.raises(InputError, match=r"plan.topology: libtpu does not know '3x5' of v5e"):
            compile_step(work, CHIPS["v5e"], "3x5")
