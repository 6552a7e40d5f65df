"""The kernels on meshes: on eight simulated devices, and compiled for TPUs that are not there."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, simulated

pytestmark = pytest.mark.long

SIMULATED = """
import functools
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from overfill_jax.model import attention as attention_module, attention_splash
from overfill_jax.model.attention import attention
from overfill_jax.model.mesh import make_mesh
from tests.builders import make_model
from tests.model.test_attention import hidden_after_prompt, make_arrays, with_gradients

attention_splash.make_splash_mha_single_device = functools.partial(
    attention_splash.make_splash_mha_single_device, interpret=True
)
attention_module.platform = lambda: "tpu"
mesh = make_mesh(2, 2, 2)

def same(found, wanted, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, wanted)

# Heads and rows that the mesh divides; heads that it does not; rows that it does not.
for shape, rows in (((70, 60, 4, 2, 8), 4), ((70, 60, 6, 3, 8), 8), ((70, 60, 4, 4, 8), 3)):
    arrays = make_arrays(shape, rows=rows)
    expected = with_gradients("xla", arrays, shape[1])
    with jax.set_mesh(mesh):
        same(with_gradients("splash", arrays, shape[1]), expected, 1e-5)

arrays = make_arrays((70, 60, 4, 2, 8), rows=4)
places = (P(("data", "fsdp"), None, "tensor"),) * 3 + (P(("data", "fsdp")),) * 2
split = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, places)]
with jax.set_mesh(mesh):
    run = jax.jit(lambda *arrays: attention(*arrays, 60, "splash"))
    program = run.lower(*split).compile().as_text()
    assert run(*split).sharding.shard_shape((4, 70, 4, 8)) == (1, 70, 2, 8)
for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert collective not in program, collective

loss = lambda model: (hidden_after_prompt(model, "full") ** 2).mean()
expected = jax.jit(jax.value_and_grad(loss))(make_model(attention="xla"))
with jax.set_mesh(mesh):
    found = jax.jit(jax.value_and_grad(loss))(make_model(attention="splash"))
same(found[0], expected[0], 1e-5)
same(found[1].params, expected[1].params, 1e-5)
"""

COMPILED = """
import dataclasses
import sys
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P

from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model, abstract
from overfill_jax.two_stage import extend_hidden, prefill_hidden
from tests.builders import CONFIG

topology = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1])
mesh = make_mesh(2, 2, 2, topology.devices)
config = dataclasses.replace(
    CONFIG, vocab_size=512, hidden_size=512, intermediate_size=256, num_heads=6, num_kv_heads=2,
    head_dim=int(sys.argv[2]), num_layers=2, dtype=sys.argv[3],
)
prompt, answer = 1024, 700

def loss(decoder, full, tokens, segments):
    positions = jnp.cumsum(segments, axis=1)
    early, late = slice(0, prompt), slice(prompt, None)
    _, cache = prefill_hidden(
        full, tokens[:, early], segments[:, early], positions[:, early], answer
    )
    hidden, _ = extend_hidden(
        decoder, tokens[:, late], segments[:, late], positions[:, late], cache, "full"
    )
    return jnp.sum(hidden.astype(jnp.float32))

weights = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    abstract(config, "float32").params, weight_shardings(config, mesh),
)
model = Model(config, weights)
rows = NamedSharding(mesh, P(("data", "fsdp")))
tokens = jax.ShapeDtypeStruct((8, prompt + answer), jnp.int32, sharding=rows)
with jax.set_mesh(mesh):
    program = jax.jit(jax.grad(loss)).lower(model, model, tokens, tokens).compile()
kernels = program.as_text().count('custom_call_target="tpu_custom_call"')
# The prompt is read; the answer is read, and again where its layer is recomputed; two gradients.
assert kernels == 5, kernels
"""


def failure(program: str, *arguments: str, **environment: str) -> str:
    """What a program says that fails, or asserts in vain, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY, env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def test_splash_on_simulated_devices_equals_one_device():
    assert not failure(SIMULATED, XLA_FLAGS=simulated(8))


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: no TPU compiler"
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("head_dim", ["64", "80", "128"])
def test_splash_compiles_for_a_tpu(head_dim, dtype):
    assert not failure(COMPILED, "v5e:2x4", head_dim, dtype, TPU_SKIP_MDS_QUERY="1")
