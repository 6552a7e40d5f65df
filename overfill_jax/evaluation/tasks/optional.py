"""Packages that only some benchmarks need; the extra `evaluation` brings them all."""

import importlib
from types import ModuleType

from overfill_jax.errors import InputError


def require(module: str, package: str, task: str) -> ModuleType:
    """Imports a module of a package that may not be installed.

    Raises:
      InputError: it is not; names the package, what needs it and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"task {task}: found no {package}, expected it installed "
            "(pip install 'overfill_jax[evaluation]')"
        ) from error
