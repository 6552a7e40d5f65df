"""Reading and decoding compiled for TPU chips that are not there, at true shapes."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PROGRAM = """
import dataclasses
import functools
import re
import sys

import jax
import numpy as np
from jax.experimental import topologies

from configs import llama3_1_8b, llama3_2_3b
from overfill_jax.inference import serving_model
from overfill_jax.inference.compiled import Pairing, write_chunk
from overfill_jax.inference.engine_steps import empty_slots, read_first
from overfill_jax.inference.placement import shardings
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.inference.serving_model import ServingModel
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.quantised import Scheme, quantise_model
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import abstract
from overfill_jax.planning.collectives import read_collectives
from overfill_jax.planning.workload import pruned_shape, read_shape

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = make_mesh(1, 1, CHIPS, devices[:CHIPS])


def shapes_of(recipe):
    config = recipe.get_config("aligned")
    full = dataclasses.replace(read_shape(config.plan.model), dtype="bfloat16")
    return full, pruned_shape(full, config.prune)


def placed(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        for leaf, where in zip(leaves, shardings(tree, mesh), strict=True)
    )


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def serving(config, params):
    blocks = serving_model.branch_blocks(config, mesh)
    lay_out_layer = functools.partial(serving_model._layer, dtype="bfloat16", blocks=blocks)
    layer = jax.eval_shape(lay_out_layer, params["layers"], 0)
    return placed(
        ServingModel(
            config=config,
            embed=params["embed"]["embedding"],
            layers=(layer,) * config.num_layers,
            final_norm=params["final_norm"]["scale"],
            unembed=params["unembed"]["kernel"] if "unembed" in params else None,
        )
    )


def compile_decoding(config, params):
    writer = serving(config, params)
    how = Pairing(None, "bfloat16", "full", reads_on=False)
    writing = placed(jax.eval_shape(lambda: empty_slots(config, config, how, 1, 1536)))
    limits, stops = GREEDY.limits(), np.zeros(1, np.int32)
    with jax.set_mesh(mesh):
        program = write_chunk.lower(
            writer, writing, np.zeros(1, bool), limits, stops, np.int32(16)
        ).compile()
    return program, writer, writing
"""

DECODING = """
_, config = shapes_of(llama3_2_3b)
program, writer, writing = compile_decoding(config, abstract(config, "bfloat16").params)
memory = program.memory_analysis()
whole = bytes_of(writer) + bytes_of(writing.cache)
assert memory.argument_size_in_bytes < 1.01 * whole / 4, (memory, whole)
# No copy of the weights, in another layout or of other devices, beside them.
assert memory.temp_size_in_bytes < 0.1 * whole / 4, memory
text = program.as_text()
# Of every layer two sums over its parts, and one of the embedding: a stream of 3 KiB each.
stream = re.escape(f"bf16[1,1,{config.hidden_size}]")
assert len(re.findall(f" = {stream}.* all-reduce", text)) == 2 * config.num_layers + 1
found = read_collectives(text)
assert found.keys() <= {"all-reduce", "all-gather"}, found
assert found["all-reduce"].bytes < 2 * 2 * config.hidden_size * (2 * config.num_layers + 1), found
assert "all-gather" not in found or found["all-gather"].bytes < 4096, found
"""

READING = """
# By the flash kernel on every device's own heads, so that nobody holds what all see of all; in the
# last layer the last token alone sees, and goes on to the MLP.
config, _ = shapes_of(llama3_2_3b)
config = dataclasses.replace(config, num_layers=3)
reader = serving(config, abstract(config, "bfloat16").params)
rows, length = 2, 1024  # no width is as long
with jax.set_mesh(mesh):
    program = read_first.lower(
        reader, np.zeros((rows, length), np.int32), np.ones(rows, np.int32), slots=length
    ).compile()
text = program.as_text()
assert len(re.findall("custom_call_target=.tpu_custom_call.", text)) == config.num_layers - 1
assert f"{length},{length}]" not in text
stream = re.escape(f"bf16[{rows},{length},{config.hidden_size}]")
assert len(re.findall(f" = {stream}.* all-reduce", text)) == 2 * (config.num_layers - 1) + 1
assert len(re.findall(r" = bf16\\S+ all-reduce", text)) == 2 * config.num_layers + 1
assert read_collectives(text).keys() == {"all-reduce"}
"""

LAYING_OUT = """
# The full model as it is loaded, 4 GiB a chip, and one layer of it as it is laid out.
config, _ = shapes_of(llama3_1_8b)
stacked = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    abstract(config, "bfloat16").params["layers"],
    weight_shardings(config, mesh)["layers"],
)
with jax.set_mesh(mesh):
    blocks = serving_model.branch_blocks(config, mesh)
    program = serving_model._layer.lower(stacked, 0, dtype="bfloat16", blocks=blocks).compile()
memory, whole = program.memory_analysis(), bytes_of(stacked)
assert not read_collectives(program.as_text())
assert memory.argument_size_in_bytes < 1.01 * whole / 4, memory
assert memory.output_size_in_bytes < 1.01 * whole / 4 / config.num_layers, memory
assert memory.temp_size_in_bytes < whole / 4 / config.num_layers, memory
"""


INTEGERS = """
_, config = shapes_of(llama3_2_3b)
config = dataclasses.replace(config, num_layers=2)
model = abstract(config, "bfloat16")
for scheme in (Scheme(8, 0), Scheme(8, 128), Scheme(4, 0), Scheme(4, 128)):
    quantised = jax.eval_shape(functools.partial(quantise_model, scheme=scheme), model)
    program, writer, _ = compile_decoding(config, quantised.params)
    layer = writer.layers[0]
    kernels = (layer.qkv, layer.out, layer.gate_up, layer.down)
    assert {str(k.values.dtype) for k in (*kernels, writer.unembed)} == {f"int{scheme.bits}"}
    # Less than a bfloat16 copy of the smallest of them, all else included.
    least = 2 * min(kernel.values.size for kernel in kernels)
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < least, (scheme, memory, least)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: no TPU compiler"
)
@pytest.mark.parametrize(
    ("chips", "program"),
    [(4, DECODING), (4, READING), (4, LAYING_OUT), (1, INTEGERS)],
    ids=["decoding", "reading", "laying out", "integers"],
)
def test_compiled_for_chips(chips, program):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"CHIPS = {chips}\n" + PROGRAM + program],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
