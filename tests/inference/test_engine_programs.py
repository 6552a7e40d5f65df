"""What the engine compiles and where it runs: programs by buckets, kernels, meshes."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from overfill_jax.inference import engine as engine_module
from overfill_jax.inference.compiled import compilations
from overfill_jax.inference.engine import Engine
from overfill_jax.inference.engine_steps import read_chunk, read_first
from overfill_jax.inference.refresh import Refresh, Tally
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.serving_cache import empty_cache
from overfill_jax.inference.serving_model import lay_out
from tests.conftest import REPOSITORY
from tests.inference.test_engine import ROOM, WARM, make_engine


def test_a_prompt_is_read_by_the_flash_kernel_until_it_is_longer_than_a_chunk(full, tpu):
    reader, cache = lay_out(full), empty_cache(full.config, 1, 48, "float32")
    tokens, counts = np.zeros((1, 16), np.int32), np.array([9], np.int32)
    first = jax.make_jaxpr(functools.partial(read_first, slots=48))(reader, tokens, counts)
    later = functools.partial(read_chunk, seen=32)
    later = jax.make_jaxpr(later)(reader, tokens, cache, counts)
    kernels = ["name=splash_mha" in str(program) for program in (first, later)]
    assert kernels == [True, False]


@pytest.mark.slow
def test_compilations_are_bounded_by_the_buckets(full, decoder):
    jax.clear_caches()  # of engines of as many rows
    room = dataclasses.replace(ROOM, slots=2, length=90, queue=200, chunk=20)
    engine = make_engine(full, decoder, room=room)
    before = compilations.copy()
    for length in range(17, 71):
        engine.submit([1] * length, Sampling(length / 50, length % 5, 0.9, length), 1 + length % 20)
    engine.run()
    # Prompts of 20 slots and of 100, whose chunks see 40, 60 and 80; all end in a slot of 90. In
    # the end there is one row of the cache, of the keys and of each of the others.
    expected = dict.fromkeys(("read_first", "begin_answers", "take_slot"), 2)
    expected |= {"read_chunk": 3, "write_chunk": 1, "rearrange": 3}
    assert compilations - before == expected


@pytest.mark.long
@pytest.mark.parametrize(
    ("refresh", "chunk", "chunks"), [(None, 8, 5), (Refresh(4), 8, 5), (None, 96, 0)]
)
def test_after_warming_up_nothing_is_compiled(
    full, decoder, pairs, compiled, monkeypatch, read_at_once, refresh, chunk, chunks
):
    monkeypatch.setattr(engine_module, "SMALLEST_SEEN", 16)
    jax.clear_caches()
    room = dataclasses.replace(ROOM, slots=6, length=50, queue=200, chunk=chunk)
    engine = Engine(full, decoder, "full", (7,), pairs, "", room, refresh)
    engine.warm_up()
    assert engine.tally == Tally()
    assert not engine.busy
    # Chunks of 8 see 16, 24, 32, 48 and 56 slots.
    assert compiled.count("jit(read_chunk)") == chunks
    compiled.clear(), read_at_once.clear()
    for length in range(1, 47):
        engine.submit([1] * length, (GREEDY, WARM)[length % 2], min(4 + length % 20, 50 - length))
    engine.run()
    assert compiled == []
    together = {slots for rows, slots in read_at_once if rows > 1}
    assert together == (set() if chunks else {16, 24})


MESHES = r"""
import jax
import numpy as np

from overfill_jax.inference.engine import Engine, Room
from overfill_jax.inference.generation import Generator
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.quantised import Scheme, quantise_model
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.cut import cut
from tests.builders import random_model
from tests.inference.test_engine import GREEDY, WARM, prompt_of

jax.config.update("jax_disable_most_optimizations", True)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, fun_name="", **others: compiled.append(fun_name) if "backend" in name else None
)
full = random_model(0, num_layers=2)
decoder = random_model(1, num_layers=2, hidden_size=14, intermediate_size=20)
# Layers and kv heads fewer, so that what crosses divides by less than what stays.
attention = np.array([1]), np.array([[1]]), np.array([[2, 3]])
shallow = cut(full, Kept(np.arange(14), np.arange(20)[None], *attention))
small = quantise_model(decoder, Scheme(8, 0))
devices = jax.devices()
one = make_mesh(2, 1, 2, devices[:4])
other = make_mesh(1, 2, 2, devices[4:])
# Two sizes of prompts, for every size is compiled for every mesh; chunks of 64 read all at once.
asked = [(prompt_of(n), (GREEDY, WARM)[n % 2], 10 + 20 * (n == 13)) for n in (5, 8, 13, 16)]
for writer, first_token, meshes, chunk in (
    (decoder, "full", (one, None), 8),
    (decoder, "decoder", (one, other), 64),
    (shallow, "full", (other, one), 8),
    (small, "full", (make_mesh(1, 1, 1, devices[:1]), make_mesh(1, 1, 1, devices[1:2])), 8),
):
    engine = Engine(full, writer, first_token, (), None, "", Room(4, 64, 12, chunk), None, *meshes)
    compiled.clear()
    found = [engine.submit(*request) for request in asked]
    engine.run()
    # For two numbers of rows: what it gives it takes again.
    assert compiled.count("jit(write_chunk)") == 2, compiled
    where = engine._slots.writing.cache.key[0].values.sharding
    assert where.device_set == set((meshes[1] or meshes[0]).devices.flat), where
    if writer is decoder:
        assert where.spec[1] == "tensor" and where.spec[0], where
    generator = Generator(full, writer, first_token, (), 0)
    for request, (prompt, sampling, most) in zip(found, asked, strict=True):
        assert request.answer() == generator.generate([prompt], sampling, most, 1)[0], request.name
"""


@pytest.mark.long
def test_answers_on_one_mesh_and_on_two_equal_those_of_one_device():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", MESHES],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
