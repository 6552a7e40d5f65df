"""Every mesh learns what one device learns: eight simulated devices, in a process of their own."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, simulated

pytestmark = pytest.mark.slow

PROGRAM = r"""
import dataclasses
import functools
import re

import jax
import numpy as np

from overfill_jax.data.batches import lay_out
from overfill_jax.data.handoffs import cut_into_blocks
from overfill_jax.model.low_rank import LowRank, init_adapters
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model, abstract
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from overfill_jax.training.inputs import drawn_like
from overfill_jax.training.losses import Terms, answer_losses
from overfill_jax.training.methods import METHODS
from overfill_jax.training.objective import Objective
from overfill_jax.training.placement import compile_steps, make_placement, to_devices
from overfill_jax.training.step import Setup, init_state, make_optimizer, make_schedule
from tests.builders import make_model, make_rows

jax.config.update("jax_disable_most_optimizations", True)
STEPS, ROWS = 20, 8
full = make_model(num_layers=2)
method = METHODS["two_stage"]
schedule = make_schedule(1e-2, STEPS, 0.1, 0.0)


def rows_of(step, start, stop):
    pieces = [make_rows(100 * (step % 2) + row, rows=2).pieces() for row in range(start, stop)]
    keys = [(step % 2, row) for row in range(start, stop)]
    return cut_into_blocks(lay_out(pieces, 24, 16), keys)


def losses(decoder, mesh, accumulation, kl_weight, handoffs, low_rank):
    models = {"full": full, "decoder": decoder}
    setup = Setup(
        configs=tuple((name, m.config) for name, m in models.items()),
        roles=(method.reader, method.writer),
        trained=method.trained,
        objective=Objective(Terms(1.0, kl_weight, 1.0, chunk=8), "full", handoffs),
        optimizer=make_optimizer(schedule, 0.9, 0.99, 1e-8, 0.1, 1.0),
        schedule=schedule,
        accumulation=accumulation,
        remat="full",
        low_rank=low_rank,
    )
    with jax.set_mesh(mesh):
        placement = make_placement(setup, mesh)
        begin = jax.jit(functools.partial(init_state, setup), out_shardings=placement.state)
        trained, frozen = {"decoder": decoder.params}, {"full": full.params}
        if low_rank:
            frozen |= trained
            trained = {"decoder": init_adapters(decoder.config, low_rank.rank, jax.random.key(0))}
        state = begin(trained)
        frozen = jax.device_put(frozen, placement.frozen)
        step_once, validate = compile_steps(setup, placement)
        found = []
        for step in range(STEPS):
            batch = to_devices(functools.partial(rows_of, step), ROWS, placement.batch)
            state, metrics = step_once(state, frozen, batch)
            found.append(float(metrics["loss"]))
        found.append(float(validate(state.params, frozen, batch)["loss"]))
        kernel = state.params["decoder"]["layers"]["mlp"]["gate"]["a" if low_rank else "kernel"]
        return found, kernel.sharding.spec, step_once._cache_size()


def gradient_program(mesh, width, vocabulary):
    # Of the losses alone, compiled. Without a matrix that only embeds, whose gradient is 0.
    shape = dataclasses.replace(
        full.config, hidden_size=width, vocab_size=vocabulary, tied_embeddings=True
    )
    rows = jax.sharding.NamedSharding(mesh, P(("data", "fsdp")))
    array = functools.partial(jax.ShapeDtypeStruct, sharding=rows)
    weights = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        abstract(shape, "float32").params,
        weight_shardings(shape, mesh),
    )

    def loss(weights, hidden, tokens, counted):
        terms, model = Terms(1.0, 0.0, 1.0, chunk=8), Model(shape, weights)
        return answer_losses(terms, model, hidden, tokens, counted, None).loss

    arguments = array((8, 16, width), "float32"), array((8, 16), "int32"), array((8, 16), "bool")
    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss)).lower(weights, *arguments).compile().as_text()


P = jax.sharding.PartitionSpec
even = cut(full, Kept(np.arange(4, 16), np.stack([np.arange(16), np.arange(8, 24)])))
odd = cut(full, Kept(np.arange(4, 17), np.stack([np.arange(17), np.arange(8, 25)])))
# One layer and one kv head of two: gathered over the tensor axis, which no longer divides them.
attention = np.array([1]), np.array([[1]]), np.array([[2]])
shallow = cut(full, Kept(np.arange(4, 16), np.arange(16)[None], *attention))
alone = make_mesh(1, 1, 1, jax.devices()[:1])
every = P(None, "fsdp", "tensor")
"""

TWENTY_STEPS = """
for decoder, kl_weight, handoffs, low_rank, meshes in CASES:
    expected, _, _ = losses(decoder, alone, 1, kl_weight, handoffs, low_rank)
    assert expected[STEPS - 1] < 0.9 * expected[0]
    for sizes, spec, accumulation in meshes:
        mesh = make_mesh(*sizes)
        found, where, compilations = losses(
            decoder, mesh, accumulation, kl_weight, handoffs, low_rank
        )
        np.testing.assert_allclose(found[:STEPS], expected[:STEPS], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[STEPS], expected[STEPS], rtol=1e-5)
        assert tuple(where) == tuple(spec), where
        assert compilations == 1, compilations
"""

IN_PARTS = r"""
places = weight_shardings(full.config, make_mesh(2, 2, 2))
drawn = drawn_like(full.config, 0, jax.device_put(full.params, places))
for one, other, place in zip(
    *map(jax.tree.leaves, (drawn, drawn_like(full.config, 0, full.params), places)), strict=True
):
    assert one.sharding == place, (one.sharding, place)
    np.testing.assert_array_equal(one, other)
for sizes in ((1, 2, 4), (2, 2, 2)):
    program = gradient_program(make_mesh(*sizes), 64, 8192)
    assert f"f32[32,{8192 // sizes[2]}]" in program
    assert "8192" not in "".join(re.findall(r"\[[\d,]+\]", program)), sizes
"""

# One of all ways to train that meshes and widths can be put together in, and all others.
ONE = """
CASES = ((even, 0.5, False, None, [((2, 2, 2), every, 2)]),)
"""
OTHERS = """
CASES = (
    (odd, 0.5, False, None, [((1, 4, 2), P(None, None, None), 1)]),
    (even, 0.5, False, None, [((8, 1, 1), P(None, None, None), 1)]),
    (shallow, 0.5, True, None, [((2, 2, 2), every, 2)]),
    (even, 0.0, False, LowRank(4, 16.0), [((2, 2, 2), P(None, "fsdp", None), 2)]),
)
"""


@pytest.mark.parametrize(
    "cases", [ONE, pytest.param(OTHERS, marks=pytest.mark.long)], ids=["one", "others"]
)
def test_twenty_steps_on_any_mesh_equal_one_device(cases):
    run(cases + TWENTY_STEPS)


def test_weights_are_drawn_and_gradients_laid_out_in_parts():
    run(IN_PARTS)


def run(program):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated(8)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
