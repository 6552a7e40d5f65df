"""The benchmark stage: times what `benchmark.subject` names; into `benchmark/`."""

import ast
import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from overfill_jax import files
from overfill_jax.benchmarking.train_step import StepTime, compile_variant, time_variant
from overfill_jax.chips import GIB
from overfill_jax.errors import InputError
from overfill_jax.evaluation.table import as_markdown, as_text, scaled


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Measures and prints; writes `benchmark/SUBJECT.json` and `.md`."""
    c = config.benchmark
    if c.subject not in SUBJECTS:
        raise InputError(
            f"benchmark.subject: found {c.subject!r}, expected one of {', '.join(SUBJECTS)}"
        )
    if c.steps < 0:
        raise InputError(f"benchmark.steps: found {c.steps}, expected at least 0")
    title, cells, numbers = SUBJECTS[c.subject](config)
    title = f"{title}; {machine()}"
    print(f"{title}\n{as_text(cells)}", flush=True)
    folder = workdir / "benchmark"
    files.write_json(folder / f"{c.subject}.json", {"title": title, **numbers})
    files.write_text(folder / f"{c.subject}.md", f"{title}\n\n{as_markdown(cells)}\n")


def machine() -> str:
    """What the numbers were measured on."""
    devices = jax.devices()
    return (
        f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )


def train_steps(config: ml_collections.ConfigDict) -> tuple[str, list[list[str]], dict]:
    """The step of `config`, then with each of `benchmark.variants`, then the first once more."""
    c = config.benchmark
    names = ["as configured", *c.variants]
    settings = ["", *c.variants]
    variants = [
        compile_variant(with_settings(config, changes), name)
        for changes, name in zip(settings, names, strict=True)
    ]
    found = [time_variant(one, one.name, c.steps) for one in variants]
    if c.variants and c.steps:  # what has drifted meanwhile
        found.append(time_variant(variants[0], "as configured, again", c.steps))
    train = config.train
    title = (
        f"Train step of {config.plan.model}, {train.batch_size} rows of {train.sequence_length} "
        f"slots, {train.dtype}, remat {train.remat}, loss_chunk {train.loss_chunk}"
    )
    return title, step_cells(found), {"variants": [dataclasses.asdict(one) for one in found]}


def step_cells(found: list[StepTime]) -> list[list[str]]:
    """A row for every variant, set against the first."""
    header = ["step", "temporary", "logits", "compiled"]
    timed = ["median", "fastest", "slowest", "speed", "tokens/s", "MFU"]
    rows = []
    for one in found:
        row = [one.name, _gib(one.temporary), _gib(one.logits), f"{one.compile_seconds:.0f} s"]
        if one.seconds:
            row += [f"{s:.3g} s" for s in (one.median, min(one.seconds), max(one.seconds))]
            row += [f"{found[0].median / one.median:.2f} x", scaled(round(one.tokens / one.median))]
            row += ["unknown peak" if one.mfu is None else f"{one.mfu:.1%}"]
        rows.append(row)
    return [header + timed if found[0].seconds else header, *rows]


def with_settings(config: ml_collections.ConfigDict, settings: str) -> ml_collections.ConfigDict:
    """A copy with settings such as "train.remat=none attention=xla".

    Raises:
      InputError: not of this form, an unknown key, or a value of another type.
    """
    changes = {}
    for setting in settings.split():
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"benchmark.variants: found {setting!r}, expected KEY=VALUE")
        try:
            changes[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[key] = value
    copy = config.copy_and_resolve_references()
    try:
        copy.update_from_flattened_dict(changes)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"benchmark.variants: found {settings!r} ({error})") from error
    return copy


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


Subject = Callable[[ml_collections.ConfigDict], tuple[str, list[list[str]], dict]]
SUBJECTS: dict[str, Subject] = {"train": train_steps}
