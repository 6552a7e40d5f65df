"""Memory by part, against hand counts and against the compiler's figures for real TPU slices."""

import pytest
from jax.sharding import AbstractMesh

from overfill_jax.chips import CHIPS, GIB
from overfill_jax.model.mesh import AXES
from overfill_jax.model.size import parameters
from overfill_jax.planning.memory import cache_bytes, saved_bytes, step_memory, weight_bytes
from overfill_jax.planning.workload import Workload
from tests.planning.builders import workload

MESHES = {"v5p": (1, 32, 1), "v6e": (1, 64, 1)}


# `memory_analysis().peak_memory_in_bytes` in GiB, of train steps compiled with libtpu 0.0.42.
@pytest.mark.parametrize(
    ("chip", "work", "compiled"),
    [
        ("v5e", workload(), 3.474),
        ("v5e", workload(rows=64), 4.353),
        ("v5e", workload(rows=64, loss_chunk=64), 3.986),
        ("v5e", workload(rows=128, accumulation=4), 3.943),
        ("v5e", workload(remat="dots"), 5.339),
        ("v5e", workload(remat="none"), 9.085),
        ("v5e", workload(kl_weight=1.0), 4.602),
        ("v5e", workload(mesh=(1, 4, 4)), 3.112),
        ("v5p", workload(mesh=MESHES["v5p"], rows=64), 2.647),
        ("v5p", workload(mesh=MESHES["v5p"], rows=64, remat="none"), 8.231),
        ("v5p", workload(mesh=MESHES["v5p"], rows=64, widths=(1689, 4505)), 21.798),
        ("v6e", workload(mesh=MESHES["v6e"], rows=64), 1.916),
        ("v5e", workload("llama3_1_8b"), 6.233),
        ("v5p", workload("llama3_1_8b", MESHES["v5p"], rows=64), 4.405),
        ("v6e", workload("llama3_1_8b", MESHES["v6e"], rows=64), 3.149),
    ],
    ids=lambda value: None if isinstance(value, Workload) else str(value),
)
def test_within_a_tenth_of_the_compiler(chip, work, compiled):
    assert step_memory(work).total / GIB == pytest.approx(compiled, rel=0.1)


def test_what_stays_is_exact():
    """The compiler's `argument_size_in_bytes` of the same step, but for padding."""
    parts = step_memory(workload()).parts
    stays = sum(parts[name] for name in ("frozen full weights", "float32 masters", "Adam moments"))
    batch = 8 * (32 // 16) * 1024 * 4
    assert stays + batch == pytest.approx(1_333_980_160, abs=100_000)


def test_axes_that_do_not_divide_are_held_whole():
    work = workload(widths=(1689, 4505), mesh=(1, 16, 1))
    memory = step_memory(work)
    assert memory.replicated == ("embed (1689 by 16)",)
    assert memory.parts["float32 masters"] == 4 * parameters(work.decoder)
    assert memory.total > CHIPS["v5e"].memory


def test_weights_are_split_by_the_table():
    work = workload()
    split, undivided = weight_bytes(work.decoder, "float32", work.mesh)
    # Everything has the width of the stream, and is split along it.
    assert (split, undivided) == (4 * parameters(work.decoder) // 16, set())
    whole, _ = weight_bytes(work.decoder, "float32", AbstractMesh((16, 1, 1), AXES))
    assert whole == 16 * split


def test_cache_and_saved_activations():
    work = workload()
    assert cache_bytes(work) == 2 * 28 * 2 * 2048 * 8 * 128 * 2
    assert saved_bytes(work) == 28 * 2 * 1024 * 1536 * 2
    split = workload(mesh=(1, 4, 4))
    assert cache_bytes(split) == cache_bytes(work)  # four times the rows, a fourth of the heads
    odd = workload(mesh=(1, 2, 3), rows=32)
    assert cache_bytes(odd) == 8 * cache_bytes(work)  # 3 does not divide 8 heads
    remats = [saved_bytes(workload(remat=name)) for name in ("full", "dots", "none")]
    assert remats == sorted(remats)
