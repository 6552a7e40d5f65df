"""The table of logical axes, on simulated devices in a process of their own."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, simulated

PROGRAM = """
import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P

from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model
from overfill_jax.two_stage import prefill
from overfill_jax.weights.folders import load_model, save_model
from pathlib import Path
from tests.builders import make_rows, make_model
import sys

import pytest

model = make_model(hidden_size=23)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("fsdp", "tensor"))
shardings = weight_shardings(model.config, mesh)
specs = jax.tree.map(lambda s: s.spec, shardings)
assert specs["layers"]["mlp"]["gate"]["kernel"] == P(None, None, "tensor"), specs
assert specs["layers"]["attention"]["out"]["kernel"] == P(None, "tensor", None, None), specs
even = make_model()
specs = jax.tree.map(lambda s: s.spec, weight_shardings(even.config, mesh))
assert specs["layers"]["mlp"]["gate"]["kernel"] == P(None, "fsdp", "tensor"), specs
assert specs["layers"]["mlp_norm"]["scale"] == P(None, "fsdp"), specs

folder = Path(sys.argv[1])
save_model(folder, even, None)
sharded = load_model(folder, shardings=weight_shardings(even.config, mesh))
assert not sharded.params["layers"]["mlp"]["gate"]["kernel"].sharding.is_fully_replicated
batch = make_rows()
read = jax.jit(prefill, static_argnames="capacity")
here, _ = read(even, batch.prompt, batch.prompt_lengths, capacity=1)
there, _ = read(sharded, batch.prompt, batch.prompt_lengths, capacity=1)
np.testing.assert_allclose(here, there, atol=2e-5)
"""


@pytest.mark.long
def test_weights_are_split_where_they_divide_and_give_the_same_logits(tmp_path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": simulated(4),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "model")],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
