"""Compiled programs that outlive the process: JAX's persistent cache, in a folder of the run."""

import contextlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import logging
from jax.experimental.compilation_cache.compilation_cache import reset_cache

AUTO = "auto"


@contextlib.contextmanager
def kept(folder: str, workdir: Path) -> Iterator[None]:
    """Within it, programs that took a second to compile are kept for the next process.

    Of several processes the first one writes, and all read. For CPUs, whose programs compile fast
    and do not run on other CPUs, programs are kept only where a folder is given.

    Args:
      folder: where; `AUTO` for `compiled/` in the workdir on accelerators, unless JAX has been told
        another folder; empty for what JAX has been told (`JAX_COMPILATION_CACHE_DIR`), if anything.
      workdir: of the run.
    """
    before = jax.config.jax_compilation_cache_dir
    chosen = _choose(folder, workdir, before)
    if chosen == before:
        yield
        return
    _turn_to(chosen)
    try:
        yield
    finally:
        _turn_to(before)


def _choose(folder: str, workdir: Path, before: str | None) -> str | None:
    if folder == "" or (folder == AUTO and before):
        return before
    if jax.default_backend() != "cpu":
        return str(workdir / "compiled" if folder == AUTO else folder)
    if folder == AUTO:
        return before
    version = importlib.metadata.version("jaxlib")
    if version.startswith("0.10."):
        return folder
    # Now and then it crashes when it writes one.
    logging.warning("compilation_cache: jaxlib %s keeps no programs for CPUs, only 0.10", version)
    return before


def _turn_to(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    reset_cache()  # what has been compiled before has settled where, or that nowhere
