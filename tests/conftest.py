"""Shapes in signatures are checked while the tests run, and only then."""

import atexit
import functools
import gc
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Programs so small are compiled sooner in one part; and the emitters that XLA uses since 2025 take
# twice as long for a CPU, but jaxlib 0.11 has no others.
_JAXLIB_0_10 = importlib.metadata.version("jaxlib").startswith("0.10.")
_FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if _JAXLIB_0_10:
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
_given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([*_given, *(flag for flag in _FLAGS if flag not in _given)])

import jax  # noqa: E402 (reads the flags)
import jaxtyping  # noqa: E402

# Nearly all the time of these tests goes into compiling programs that run for milliseconds: they
# are compiled with little care, and once for all workers and the processes that tests start.
# (jaxlib 0.11 now and then crashes when it writes a program for a CPU into the cache.)
jax.config.update("jax_disable_most_optimizations", True)
if _JAXLIB_0_10 and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.mkdtemp(prefix="overfill_compiled_")
    atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", COMPILED)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jaxtyping.install_import_hook("overfill_jax", "beartype.beartype")

# Tracing makes millions of objects, and what JAX keeps of them only grows: to look through them
# all again and again took a twelfth of the time.
gc.freeze()
gc.set_threshold(200_000, 50, 100)

REPOSITORY = Path(__file__).parent.parent


def simulated(devices: int) -> str:
    """XLA_FLAGS of a process with so many devices."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Golden vectors and benchmark data that are not part of the repository."""
    shared = Path(os.environ.get("OVERFILL_SHARED", REPOSITORY.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no data folder in {shared}; set OVERFILL_SHARED")
    return shared / "data"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """A step is lowered with a `Batch` of what stands for arrays."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A workdir with everything that training reads; to be copied, not written to."""
    from tests.interruptions import prepare

    workdir = tmp_path_factory.mktemp("prepared") / "run"
    prepare(workdir, steps=40)
    return workdir


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    """The same after a run of two processes; to be copied, not written to."""
    from tests.interruptions import TWO_HOSTS, finish

    workdir = shutil.copytree(prepared, tmp_path_factory.mktemp("trained") / "run")
    finish(workdir, TWO_HOSTS)
    return workdir


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A workdir after every stage of `small_run`; to be copied, not written to."""
    from tests.small_run import run_to_decoder

    workdir = tmp_path_factory.mktemp("finished")
    run_to_decoder(workdir)
    return workdir


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """That workdir again, to be harmed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def tpu(monkeypatch):
    """A platform that says it is a TPU, with the kernel interpreted."""
    from overfill_jax.model import attention as attention_module
    from overfill_jax.model import attention_splash

    kernel = functools.partial(attention_splash.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(attention_splash, "make_splash_mha_single_device", kernel)
    monkeypatch.setattr(attention_module, "platform", lambda: "tpu")
