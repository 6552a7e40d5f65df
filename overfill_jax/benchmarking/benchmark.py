"""The benchmark stage: times what `benchmark.subject` names; into `benchmark/`."""

import dataclasses
import platform
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections

from overfill_jax import files
from overfill_jax.benchmarking.breakdown import plot_breakdown
from overfill_jax.benchmarking.engine import time_serving
from overfill_jax.benchmarking.inference import Answered, WithoutRoom, time_answers
from overfill_jax.benchmarking.loading import time_loading
from overfill_jax.benchmarking.precision import plot_precision, time_precision
from overfill_jax.benchmarking.refresh import plot_refresh, time_refresh
from overfill_jax.benchmarking.systems import FULL
from overfill_jax.benchmarking.train_step import StepTime, compile_variant, time_variant
from overfill_jax.errors import InputError
from overfill_jax.evaluation.table import as_markdown, as_text, gib, scaled, without_empty
from overfill_jax.model.size import dimensions
from overfill_jax.overrides import with_settings

AS_IT_IS = "as configured"

# Of the subjects that draw one.
PLOTS = {"inference": "breakdown", "refresh": "refresh", "precision": "precision"}

# A title, the cells of a table, and the same as JSON knows it: of all that is measured so far.
Measured = Iterator[tuple[str, list[list[str]], dict]]


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Measures and prints; writes `benchmark/SUBJECT.json` and `.md`."""
    c = config.benchmark
    if c.subject not in SUBJECTS:
        raise InputError(
            f"benchmark.subject: found {c.subject!r}, expected one of {', '.join(SUBJECTS)}"
        )
    if not c.intervals or min(c.intervals) < 1:
        raise InputError(
            f"benchmark.intervals: found {tuple(c.intervals)}, expected numbers of at least 1"
        )
    if not c.groups or min(c.groups) < 0:
        raise InputError(
            f"benchmark.groups: found {tuple(c.groups)}, expected numbers of at least 0"
        )
    if not c.decoders:
        raise InputError("benchmark.decoders: found none, expected folders of the workdir")
    if c.steps < 0:
        raise InputError(f"benchmark.steps: found {c.steps}, expected at least 0")
    for title, cells, numbers in SUBJECTS[c.subject](config, workdir):
        title = f"{title}; {machine()}"
        folder = workdir / "benchmark"
        files.write_json(folder / f"{c.subject}.json", {"title": title, **numbers})
        parts = [f"# Benchmark: {c.subject}", title, as_markdown(cells)]
        if c.subject in PLOTS:
            parts.append(f"![{c.subject}]({PLOTS[c.subject]}.png)")
        files.write_text(folder / f"{c.subject}.md", "\n\n".join(parts) + "\n")
    print(f"{title}\n{as_text(cells)}", flush=True)


def machine() -> str:
    """What the numbers were measured on."""
    devices = jax.devices()
    return (
        f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )


def variants_of(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The config as it is, and with each of `benchmark.variants`, by name."""
    variants = {
        settings: with_settings(config, settings.split(), "benchmark.variants")
        for settings in config.benchmark.variants
    }
    return {AS_IT_IS: config, **variants}


def train_steps(config: ml_collections.ConfigDict, _: Path) -> Measured:
    """The step of `config`, then with each of `benchmark.variants`, then the first once more."""
    c = config.benchmark
    variants = [compile_variant(one, name) for name, one in variants_of(config).items()]
    found = [time_variant(one, one.name, c.steps) for one in variants]
    if c.variants and c.steps:  # what has drifted meanwhile
        found.append(time_variant(variants[0], f"{AS_IT_IS}, again", c.steps))
    train = config.train
    title = (
        f"Train step of {config.plan.model}, {train.batch_size} rows of {train.sequence_length} "
        f"slots, {train.dtype}, remat {train.remat}, loss_chunk {train.loss_chunk}"
    )
    yield title, step_cells(found), {"variants": [dataclasses.asdict(one) for one in found]}


def loading(config: ml_collections.ConfigDict, workdir: Path) -> Measured:
    """The loader of `config`, then with each of `benchmark.variants`."""
    epochs = config.train.epochs
    found = [time_loading(one, workdir, name, epochs) for name, one in variants_of(config).items()]
    rows = config.train.batch_size
    title = f"Loader of {config.train.source}, one core, batches of {rows} rows, {epochs} epochs"
    header = [
        "rows",
        "prompt slots",
        "answer slots",
        "filled",
        "one example a row",
        "tokens/s/core",
    ]
    cells = [
        [
            one.name,
            str(one.filling.shape.prompt_slots),
            str(one.filling.shape.answer_slots),
            f"{one.filling.used:.1%}",
            f"{one.filling.padded:.1%}",
            scaled(round(one.rate)),
        ]
        for one in found
    ]
    numbers = [dataclasses.asdict(one) | {"rate": one.rate} for one in found]
    yield title, [header, *cells], {"variants": numbers}


def inference(config: ml_collections.ConfigDict, workdir: Path) -> Measured:
    """Answers of all systems at every size; plots beside the table."""
    settings = {
        "benchmark.precision": config.benchmark.precision,
        "generate.cache": config.generate.cache,
        "generate.refresh": config.generate.refresh,
    }
    for timed in time_answers(config):
        plot_breakdown(timed.answers, workdir / "benchmark" / "breakdown.png")
        title = (
            f"Answers of {config.plan.model}, {config.generate.dtype}, memory of "
            f"{timed.bandwidth / 1e9:.0f} GB/s"
        )
        numbers = {
            "bandwidth": timed.bandwidth,
            "models": {name: dimensions(shape) for name, shape in timed.models.items()},
            "settings": settings,
            "answers": [
                dataclasses.asdict(one) | {"step": one.step, "reached": one.reached}
                for one in timed.answers
            ],
            "out_of_memory": [dataclasses.asdict(one) for one in timed.without_room],
        }
        yield title, answer_cells(timed.answers, timed.without_room), numbers


def answer_cells(found: list[Answered], without_room: list[WithoutRoom]) -> list[list[str]]:
    """A row for every system and size, set against the full model at that size."""
    header = ["system", "batch", "in", "out", "first token", "ms/token", "tokens/s", "over full"]
    header += ["MB/token", "of the memory", "handoff", "prefill MFU", "peak so far"]
    header += ["planned first", "planned ms/token", "compiled"]
    full = {(a.batch, a.prompt, a.answer): a.total for a in found if a.system == FULL}
    rows = []
    for one in found:
        size = one.batch, one.prompt, one.answer
        row = [one.system, *map(str, size), f"{1e3 * one.first:.1f} ms", f"{1e3 * one.step:.2f}"]
        row += [scaled(round(one.batch / one.step))]
        row += [f"{full[size] / one.total:.2f} x" if size in full else ""]
        row += ["" if one.bytes is None else f"{one.bytes / 1e6:,.0f}"]
        row += ["" if one.reached is None else f"{one.reached:.0%}"]
        row += ["" if one.handoff is None else f"{1e3 * one.handoff:.2f} ms"]
        row += ["" if one.mfu is None else f"{one.mfu:.0%}"]
        row += ["" if one.peak is None else gib(one.peak)]
        row += ["" if one.planned_first is None else f"{1e3 * one.planned_first:.1f} ms"]
        row += ["" if one.planned_step is None else f"{1e3 * one.planned_step:.2f}"]
        rows.append([*row, f"{one.compile_seconds:.0f} s"])
    for lacking in without_room:
        size = map(str, (lacking.batch, lacking.prompt, lacking.answer))
        row = [lacking.system, *size, "out of memory"]
        rows.append(row + [""] * (len(header) - len(row)))
    return without_empty([header, *rows])  # a machine that is not known leaves some


def refresh(config: ml_collections.ConfigDict, workdir: Path) -> Measured:
    """The pairs of `workdir` under each refresh policy; a plot beside the table."""
    c, longest = config.evaluate, max(config.benchmark.intervals)
    if longest > c.max_new_tokens:
        raise InputError(
            f"benchmark.intervals: found {longest}, but an answer has at most "
            f"{c.max_new_tokens} tokens (evaluate.max_new_tokens)"
        )
    found = time_refresh(config, workdir)
    plot_refresh(found, workdir / "benchmark" / "refresh.png")
    title = f"Refresh on {c.source}, greedy, {c.dtype}, batches of {c.batch_size}"
    header = [
        "decoder",
        "refresh",
        "loss",
        "accuracy",
        "as full",
        "stands",
        "speed-up, bytes",
        "speed-up, time",
        "seconds",
    ]
    cells = [
        [
            one.decoder,
            one.name,
            "" if one.loss is None else f"{one.loss:.5f}",
            f"{one.accuracy:.3f}",
            f"{one.as_full:.1%}",
            "" if one.acceptance is None else f"{one.acceptance:.1%}",
            f"{one.speed_up:.2f} x",
            f"{one.time_speed_up:.2f} x",
            f"{one.seconds:.2f}",
        ]
        for one in found
    ]
    yield title, [header, *cells], {"policies": [dataclasses.asdict(one) for one in found]}


def precision(config: ml_collections.ConfigDict, workdir: Path) -> Measured:
    """The first pair of `workdir` with integers for weights and cache; a plot beside the table."""
    found = time_precision(config, workdir)
    plot_precision(found, workdir / "benchmark" / "precision.png")
    c = config.evaluate
    title = f"Precision on {c.source}, greedy, {c.dtype}, batches of {c.batch_size}"
    header = ["full model", "decoder", "cache", "accuracy", "as exact"]
    header += ["logits off, median", "worst", "kB/token", "of it", "seconds"]
    cells = [
        [
            one.full,
            one.weights,
            one.cache,
            f"{one.accuracy:.3f}",
            f"{one.as_exact:.1%}",
            f"{one.median_error:.2%}",
            f"{one.worst_error:.2%}",
            f"{one.bytes / 1e3:,.0f}",
            f"{one.bytes / found[0].bytes:.1%}",
            f"{one.seconds:.2f}",
        ]
        for one in found
    ]
    yield title, [header, *cells], {"pairs": [dataclasses.asdict(one) for one in found]}


def engine(config: ml_collections.ConfigDict, _: Path) -> Measured:
    """Many requests at once against one after another."""
    found = time_serving(config)
    title = (
        f"{config.benchmark.requests} requests to {config.plan.model}, {config.generate.dtype}, "
        f"{config.engine.slots} slots of {config.engine.length}"
    )
    header = ["system", "in", "out", "one by one", "engine", "gain", "first token", "last first"]
    cells = [
        [
            one.system,
            f"up to {one.prompt}",
            f"up to {one.answer}",
            f"{one.tokens / one.alone:,.0f} tokens/s",
            f"{one.tokens / one.together:,.0f} tokens/s",
            f"{one.gain:.2f} x",
            f"{1e3 * statistics.median(one.first):.0f} ms",
            f"{1e3 * max(one.first):.0f} ms",
        ]
        for one in found
    ]
    numbers = [dataclasses.asdict(one) | {"gain": one.gain} for one in found]
    yield title, [header, *cells], {"served": numbers}


def step_cells(found: list[StepTime]) -> list[list[str]]:
    """A row for every variant, set against the first."""
    header = ["step", "temporary", "logits", "compiled"]
    timed = ["median", "fastest", "slowest", "speed", "tokens/s", "MFU"]
    rows = []
    for one in found:
        row = [one.name, gib(one.temporary), gib(one.logits), f"{one.compile_seconds:.0f} s"]
        if one.seconds:
            row += [f"{s:.3g} s" for s in (one.median, min(one.seconds), max(one.seconds))]
            row += [f"{found[0].median / one.median:.2f} x", scaled(round(one.tokens / one.median))]
            row += ["unknown peak" if one.mfu is None else f"{one.mfu:.1%}"]
        rows.append(row)
    return [header + timed if found[0].seconds else header, *rows]


SUBJECTS: dict[str, Callable[[ml_collections.ConfigDict, Path], Measured]] = {
    "train": train_steps,
    "load": loading,
    "refresh": refresh,
    "precision": precision,
    "inference": inference,
    "engine": engine,
}
