"""Answers on meshes equal those of one device, and no weight or cache entry leaves its device."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, simulated

pytestmark = pytest.mark.long

MODELS = """
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from overfill_jax.inference import generation
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.serving_model import extend, lay_out, logits_of, prefill
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.quantised import Scheme, quantise_model
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from tests.builders import make_model, random_model

jax.config.update("jax_disable_most_optimizations", True)
WARM = Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=3)
WIDE = {"vocab_size": 512, "num_layers": 2, "num_heads": 8, "num_kv_heads": 4, "head_dim": 32}
FULL, NARROW = (
    WIDE | {"hidden_size": hidden, "intermediate_size": inner}
    for hidden, inner in ((128, 256), (96, 192))
)
full, decoder = random_model(0, **FULL), random_model(1, **NARROW)
# One layer, and kv heads that lie on other devices of the full model's mesh than on their own.
heads = np.array([1]), np.array([[1, 2]]), np.array([[2, 3, 4, 5]])
shallow = cut(full, Kept(np.arange(96), np.arange(192)[None], *heads))
prompts = [[(7 * i + 3 * row + i * i) % 512 for i in range(n)] for row, n in enumerate((5, 23, 14))]
rows_and_heads = make_mesh(2, 1, 2, jax.devices()[:4])
only_heads = make_mesh(1, 1, 4, jax.devices()[4:])


def spread(model, mesh):
    where = weight_shardings(model.config, mesh)
    return dataclasses.replace(model, params=jax.device_put(model.params, where))
"""

ANSWERS = """
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, fun_name="", **others: compiled.append(fun_name) if "backend" in name else None
)
small, smaller = quantise_model(decoder, Scheme(8, 0)), quantise_model(decoder, Scheme(4, 32))
lossless, unsure = Refresh(4, strictness=1.0), Refresh(4, entropy=2.0)
for mesh, writer, settings in (
    (rows_and_heads, decoder, {}),
    (only_heads, smaller, {"first_token": "decoder"}),
    (rows_and_heads, small, {"cache": "int8", "refresh": unsure}),
    (only_heads, shallow, {"refresh": lossless, "cache": "int8"}),
    (rows_and_heads, full, {}),
):
    settings = {"first_token": "full", "stop_ids": (7,), "pad_id": 0} | settings
    alone = Generator(full, writer, **settings)
    reader = spread(full, mesh)
    if writer is decoder or writer is full:  # others come from the first device
        writer = reader if writer is full else spread(writer, mesh)
    shared = Generator(reader, writer, **settings)
    for sampling in (GREEDY, WARM):
        compiled.clear()
        found = shared.generate(prompts, sampling, 20, 3)
        write = "jit(write_block)" if "refresh" in settings else "jit(write_chunk)"
        # What it gives it takes again; another way of sampling is no reason to compile.
        assert compiled.count(write) == (sampling is GREEDY), compiled
        expected = alone.generate(prompts, sampling, 20, 3)
        assert [a.tokens for a in found] == [a.tokens for a in expected], settings
"""

LOGITS = """
tokens = jnp.array(np.random.default_rng(0).integers(0, 512, (4, 12)))
lengths = jnp.array([12, 7, 1, 9])


@jax.jit
def run(reader, writer):
    hidden, cache = prefill(reader, tokens, lengths, 20, lengths - 1)
    first = logits_of(reader, hidden[:, 0])
    more, cache = extend(writer, tokens[:, :2], cache.astype(dtype))
    return first, logits_of(writer, more), cache


full, decoder = make_model(0, **FULL), make_model(1, **NARROW)
for dtype, writer in (
    ("float32", decoder),
    ("int8", quantise_model(decoder, Scheme(8, 0))),
    ("float32", quantise_model(decoder, Scheme(4, 32))),
):
    jax.clear_caches()  # of `run` with the former dtype
    expected = run(lay_out(full), lay_out(writer))
    for mesh in (rows_and_heads, only_heads):
        there = lay_out(writer, mesh)
        elsewhere = lay_out(there, only_heads if mesh is rows_and_heads else rows_and_heads)
        back = lay_out(elsewhere, mesh)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), there, back))
        with jax.set_mesh(mesh):
            found = run(lay_out(full, mesh), back)
        for one, other in zip(found[:2], expected[:2], strict=True):
            scale = np.abs(other).max()
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=1e-5)

# Two kv heads on four devices: nothing is split within a head.
layer = lay_out(shallow, only_heads).layers[0]
assert layer.qkv.sharding.is_fully_replicated and not layer.down.sharding.is_fully_replicated
"""

PROGRAMS = """
COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?[(]"
)
BLOCK, NEW = 4, 20
seen = set()


def largest(program):
    # By kind: the most elements of one array that such a collective brings.
    found = {}
    for shapes, kind in COLLECTIVE.findall(program):
        for shape in re.findall(r"\\[([\\d,]*)\\]", shapes):
            count = math.prod(int(size) for size in shape.split(",") if size)
            found[kind] = max(found.get(kind, 0), count)
    return found


def watch(name, logits, stream):
    function = getattr(generation, name)

    def watched(*arguments, **settings):
        found = largest(function.lower(*arguments, **settings).compile().as_text())
        seen.add(name)
        assert found.pop("all-reduce") <= max(stream, logits), (name, found)
        assert max(found.values()) <= logits, (name, found)
        return function(*arguments, **settings)

    setattr(generation, name, watched)


# Two rows on a device (four, where heads alone are split): of every token the stream, and logits.
rows, width, vocabulary = 4, 128, 512
watch("read_prompts", rows * vocabulary, rows * 24 * width)
watch("write_chunk", rows * vocabulary, rows * width)
watch("write_block", rows * BLOCK * vocabulary, rows * BLOCK * width)
for mesh in (rows_and_heads, only_heads):
    tensor = mesh.shape["tensor"]
    for cache, refresh in (("", None), ("int8", Refresh(BLOCK, 2.0, 1.0))):
        reader, writer = spread(full, mesh), spread(decoder, mesh)
        shared = Generator(reader, writer, "full", (), 0, refresh=refresh, cache=cache)
        shared.generate([*prompts, prompts[0]], GREEDY, NEW, 4)
    for layer in (*shared._reader.layers, *shared._writer.layers):
        for kernel in (layer.qkv, layer.out, layer.gate_up, layer.down):
            (shard, *_) = kernel.addressable_shards
            assert shard.data.size * tensor == kernel.size, kernel.sharding
assert seen == {"read_prompts", "write_chunk", "write_block"}
# The smallest array of weights and of entries that a device has is larger than all that moves.
assert min(96 * 4 * 4 * 32 // 4, 96 * 2 * 192 // 4, 4 * 4 * 40 * 32 // 4) >= rows * vocabulary
"""


STAGES = """
import json
import sys
from pathlib import Path

import jax
import numpy as np

import overfill_jax
from configs.default import get_config

jax.config.update("jax_disable_most_optimizations", True)
source, workdir = "launch/quickstart_model", Path(sys.argv[1])
full = overfill_jax.load(source, "float32")
decoder = overfill_jax.prune(full, None, 64, 160, selection="first")
overfill_jax.save(full, workdir / "full")
overfill_jax.save(decoder, workdir / "decoder")
lines = [{"prompt": f"{n} + {n} =", "response": f"{2 * n}"} for n in range(5)]
(workdir / "rows.jsonl").write_text("\\n".join(map(json.dumps, lines)))


def answers(*sizes):
    config = get_config()
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = sizes
    config.generate.max_new_tokens, config.generate.dtype = 6, "float32"
    config.generate.batch_size = 3  # which no mesh divides
    config.generate.prompts = str(workdir / "rows.jsonl")
    config.generate.output = str(workdir / "answers.jsonl")
    overfill_jax.run_stage("generate", config, workdir)
    return (workdir / "answers.jsonl").read_text()


def losses(*sizes):
    config = get_config()
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = sizes
    config.evaluate.max_new_tokens, config.evaluate.batch_size = 2, 3
    config.evaluate.source = str(workdir / "rows.jsonl")
    overfill_jax.run_stage("evaluate", config, workdir)
    paths = [workdir / "results" / f"{name}.json" for name in ("full", "two_stage")]
    return [json.loads(path.read_text())["loss"]["total"]["loss"] for path in paths]


# Devices that are not asked for stand by; what training splits along `fsdp` counts as `data`.
assert answers(2, 1, 2) == answers(1, -1, 4) == answers(1, 1, 1)
np.testing.assert_allclose(losses(2, 1, 2), losses(1, 1, 1), rtol=1e-5)

mesh = jax.make_mesh((2, 4), ("data", "tensor"))
pair, shared = (
    overfill_jax.TwoStage(*(overfill_jax.load(workdir / name, mesh=where) for name in names))
    for names in [("full", "decoder")]
    for where in (None, mesh)
)
kernel = shared.full.params["layers"]["mlp"]["gate"]["kernel"]
assert kernel.addressable_shards[0].data.size * 4 == kernel.size
prompts = [f"{n} + {n} =" for n in range(3)]
assert shared.generate(prompts, max_new_tokens=6) == pair.generate(prompts, max_new_tokens=6)
found = []
tokens, more = np.array([[5, 6, 7], [8, 9, 0]]), np.array([[8, 9], [10, 11]])
for one in (pair, shared):
    first, cache = one.prefill(tokens, np.array([3, 2]))
    found.append((first, one.extend(more, cache)[0]))
for one, other in zip(*found, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)
try:
    overfill_jax.load(source, mesh=jax.make_mesh((8,), ("x",)))
except overfill_jax.InputError as error:
    assert "found axis 'x', expected of data, fsdp, tensor" in str(error)
else:
    raise AssertionError
"""


PROGRAMS_BY_NAME = {"answers": ANSWERS, "logits": LOGITS, "programs": PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS_BY_NAME.values(), ids=PROGRAMS_BY_NAME)
def test_on_simulated_devices(program):
    run(MODELS + program)


def test_stages_and_python_share_models_among_devices(tmp_path):
    run(STAGES, str(tmp_path))


def run(program: str, *arguments: str) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated(8)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
