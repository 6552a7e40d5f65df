"""Packages that only some parts of the evaluation need; extras of ours bring them."""

import importlib
from types import ModuleType

from overfill_jax.errors import InputError


def require(module: str, package: str, extra: str, needed_by: str) -> ModuleType:
    """Imports a module of a package that may not be installed.

    Raises:
      InputError: it is not; names what needs it, the package and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{needed_by}: found no {package}, expected it installed "
            f"(pip install 'overfill_jax[{extra}]')"
        ) from error
