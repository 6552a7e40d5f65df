"""Settings as text, such as "train.remat=none attention=xla", put into a config."""

import ast
from collections.abc import Sequence
from typing import Any

import ml_collections

from overfill_jax.errors import InputError


def with_settings(
    config: ml_collections.ConfigDict, settings: Sequence[str], name: str
) -> ml_collections.ConfigDict:
    """A copy with settings, each `KEY=VALUE`; the key is whole and the value Python or a word.

    Args:
      config: is not changed.
      settings: the later hold where two are of one key.
      name: of the key that they stand under, for errors.

    Raises:
      InputError: not of this form, an unknown key, or a value of another type.
    """
    changes = parse(settings, name)
    copy = config.copy_and_resolve_references()
    try:
        copy.update_from_flattened_dict(changes)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: found {' '.join(settings)!r} ({error})") from error
    return copy


def parse(settings: Sequence[str], name: str) -> dict[str, Any]:
    """Values by their keys.

    Raises:
      InputError: not of the form KEY=VALUE.
    """
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{name}: found {setting!r}, expected KEY=VALUE")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found
