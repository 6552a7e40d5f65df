"""What an experiment reads off a cell that is done: numbers that its stages left in files."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.evaluation import accuracy as judged
from overfill_jax.evaluation.plots import RARE
from overfill_jax.evaluation.systems import FULL, PRUNED_TUNED, SYSTEMS, TWO_STAGE
from overfill_jax.evaluation.tasks.rows import read_rows
from overfill_jax.training.metrics import read_metrics

TITLES = {system.name: system.title for system in SYSTEMS}
# Of the systems that come out of a training run, its folder under metrics/.
TRAINED_BY = {
    "two_stage": "two_stage",
    "joint": "joint",
    "pruned_tuned": "pruned",
    "scratch": "scratch",
    "full_tuned": "full",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One number of one cell.

    Attributes:
      line: what it is of, such as a system; '' where there is but one.
      value: None where it is not defined.
      x: where it stands; None: at the cell's row.
      panel: the task that it is of; '' for all.
      interval: the 95 % interval of the value, where the results have one.
    """

    line: str
    value: float | int | None
    x: float | int | None = None
    panel: str = ""
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the numbers of a cell come from.

    Attributes:
      cell: its folder.
      first: the folder of the first row and series of its seed.
      workdir: of all cells.
      systems: names of those that are wanted.
      full_tokens: that the full model was trained on before the experiment.
    """

    cell: Path
    first: Path
    workdir: Path
    systems: tuple[str, ...]
    full_tokens: int


@dataclasses.dataclass(frozen=True)
class Measure:
    """A way to look at a cell.

    Attributes:
      axis: what the figure's y axis says.
      read: the numbers.
      x: what the x axis says; '' where the rows stand there.
      common: what the seeds of one number have in common, their "x"; or, where that is measured
        and differs a little, their "row", in which case all rows form one line, or their "line".
      logarithmic: the y axis.
      tabled: whether the numbers are worth a table.
    """

    axis: str
    read: Callable[[Source], list[Point]]
    x: str = ""
    common: Literal["x", "row", "line"] = "x"
    logarithmic: bool = False
    tabled: bool = True


def accuracy(source: Source) -> list[Point]:
    """Mean over the families."""
    return [_accuracy(source, name) for name in source.systems]


def families(source: Source) -> list[Point]:
    """The accuracy on each family."""
    return [
        Point(title, family["share"], panel=name, interval=_interval(family))
        for title, found in _results(source)
        for name, family in found["families"].items()
    ]


def loss(source: Source) -> list[Point]:
    """Nats per token of the reference answers."""
    return [Point(title, found["loss"]["total"]["loss"]) for title, found in _results(source)]


def positions(source: Source) -> list[Point]:
    """The same at each place of the answer: how far a decoder's capacity carries."""
    return [
        Point(title, place["loss"], x=number)
        for title, found in _results(source)
        for number, place in enumerate(found["loss"]["positions"], 1)
        if place["tokens"] >= RARE * found["loss"]["positions"][0]["tokens"]
    ]


def gap(source: Source) -> list[Point]:
    """Share of the way from pruned tuned to full that two-stage has come, in accuracy."""
    named = (TWO_STAGE, PRUNED_TUNED, FULL)
    found = [_result(source, system.name)["accuracy"]["share"] for system in named]
    return [Point("", judged.gap_closed(*found))]


def gain(source: Source) -> list[Point]:
    """How much better two-stage is than each other system, in the paper's form."""

    def shares(system: str) -> dict[str, float]:
        return {name: one["share"] for name, one in _result(source, system)["families"].items()}

    ours = shares(TWO_STAGE.name)
    return [
        Point(f"over {TITLES[name]}", judged.relative_gain(ours, shares(name)))
        for name in source.systems
        if name != TWO_STAGE.name
    ]


def accuracy_by_tokens(source: Source) -> list[Point]:
    """Accuracy against all tokens that went into a system, the full model's included."""
    return [
        dataclasses.replace(_accuracy(source, name), x=_tokens(source, name))
        for name in source.systems
        if name in TRAINED_BY
    ]


def scores(source: Source) -> list[Point]:
    """The first metric of each benchmark that was asked."""
    return [
        Point(TITLES[name], metric["value"], panel=task, interval=_interval(metric))
        for task, name, found in _scores(source)
        for metric in list(found["metrics"].values())[:1]
    ]


def answer_lengths(source: Source) -> list[Point]:
    """Mean tokens of an answer, by benchmark."""
    return [
        Point(TITLES[name], found["lengths"]["mean"], panel=task)
        for task, name, found in _scores(source)
        if found["lengths"]
    ]


def accuracy_by_length(source: Source) -> list[Point]:
    """Accuracy on the answers of each length, in quarters of as many rows."""
    return [
        Point(TITLES[name], share, x=words)
        for name in source.systems
        for words, share in _quarters(source.cell / "results" / f"{name}.jsonl")
    ]


def overlap(source: Source) -> list[Point]:
    """Share of kept channels that the first cell keeps as well, of hidden and MLP channels.

    Nothing where the first cell failed or keeps other layers.
    """
    if not (source.first / "kept.npz").exists():
        return []
    with np.load(source.cell / "kept.npz") as ours, np.load(source.first / "kept.npz") as theirs:
        if not np.array_equal(_layers(ours), _layers(theirs)):
            return []
        return [
            Point(name, _shared(ours[name], theirs[name])) for name in ("hidden", "intermediate")
        ]


def refreshed_loss(source: Source) -> list[Point]:
    """Answer loss by refresh interval, from the benchmark of that subject."""
    return [
        Point(one["of"], one["loss"], x=one["interval"])
        for one in _policies(source)
        if one["name"].startswith("every")
    ]


def refreshed_positions(source: Source) -> list[Point]:
    """The same at each place of the answer, without refresh and under each interval."""
    return [
        Point(one["name"], place["loss"], x=number)
        for one in _policies(source)
        for number, place in enumerate(one["positions"], 1)
        if place["tokens"] >= RARE * one["positions"][0]["tokens"]
    ]


def refreshed_accuracy(source: Source) -> list[Point]:
    """Accuracy of the answers under each policy, by the speed-up that the bytes imply."""
    return [Point(one["name"], one["accuracy"], x=one["speed_up"]) for one in _policies(source)]


def refreshed_by_length(source: Source) -> list[Point]:
    """The same on the answers of each length, in quarters of as many rows."""
    return [
        Point(one["name"], share, x=words)
        for one in _policies(source)
        for words, share in one["by_length"]
    ]


def precision(source: Source) -> list[Point]:
    """Accuracy by bytes that a token reads, from the benchmark of that subject."""
    pairs = files.read_object(source.cell / "benchmark" / "precision.json")["pairs"]
    exact = pairs[0]["full"]

    def name(pair: dict[str, Any]) -> str:
        behind = "" if pair["full"] == exact else f", behind an {pair['full']} full model"
        return f"{pair['weights']}, cache {pair['cache']}{behind}"

    return [Point(name(pair), pair["accuracy"], x=pair["bytes"]) for pair in pairs]


def latency(source: Source) -> list[Point]:
    """Seconds of whole answers by their length, from the benchmark of inference."""
    return [Point(name, one["total"], x=one["answer"]) for name, one in _answers(source)]


def prefill_share(source: Source) -> list[Point]:
    """Share of an answer's time that is over when its first token is there."""
    return [
        Point(name, one["first"] / one["total"], x=one["answer"]) for name, one in _answers(source)
    ]


MEASURES = {
    "accuracy": Measure("exact-match accuracy", accuracy),
    "families": Measure("exact-match accuracy, by task", families),
    "loss": Measure("answer loss (nats per token)", loss, logarithmic=True),
    "positions": Measure(
        "loss (nats per token)",
        positions,
        "place in the answer (token)",
        logarithmic=True,
        tabled=False,
    ),
    "gap": Measure("share of the gap closed", gap),
    "relative_gain": Measure("relative gain, mean of the tasks", gain),
    "accuracy_by_tokens": Measure(
        "exact-match accuracy", accuracy_by_tokens, "tokens trained on, all models", "row"
    ),
    "scores": Measure("score", scores),
    "answer_lengths": Measure("tokens of an answer, mean", answer_lengths),
    "accuracy_by_length": Measure(
        "exact-match accuracy", accuracy_by_length, "words of the reference answer"
    ),
    "overlap": Measure("kept channels that the first cell keeps, too", overlap),
    "refreshed_loss": Measure(
        "answer loss (nats per token)", refreshed_loss, "refresh every (tokens)", logarithmic=True
    ),
    "refreshed_positions": Measure(
        "loss (nats per token)",
        refreshed_positions,
        "place in the answer (token)",
        logarithmic=True,
        tabled=False,
    ),
    "refreshed_accuracy": Measure(
        "exact-match accuracy",
        refreshed_accuracy,
        "tokens a second over the full model's, by bytes",
        "line",
    ),
    "refreshed_by_length": Measure(
        "exact-match accuracy", refreshed_by_length, "words of the reference answer"
    ),
    "precision": Measure("exact-match accuracy", precision, "bytes per token"),
    "latency": Measure("seconds of an answer", latency, "answer tokens"),
    "prefill_share": Measure(
        "share of the time before the first token", prefill_share, "answer tokens"
    ),
}


def check_measures(names: tuple[str, ...], systems: tuple[str, ...]) -> None:
    """Refuses names that are not known.

    Raises:
      InputError: names the one, and all that are known.
    """
    for key, given, known in (("measures", names, MEASURES), ("systems", systems, TITLES)):
        for name in given:
            if name not in known:
                raise InputError(
                    f"experiment.{key}: found {name!r}, expected some of {', '.join(known)}"
                )


def _results(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in source.systems:
        yield TITLES[name], _result(source, name)


def _result(source: Source, system: str) -> dict[str, Any]:
    return files.read_object(source.cell / "results" / f"{system}.json")


def _accuracy(source: Source, system: str) -> Point:
    found = _result(source, system)["accuracy"]
    return Point(TITLES[system], found["share"], interval=_interval(found))


def _interval(found: Mapping[str, float]) -> tuple[float, float]:
    """Of a share or a metric, as results and scores hold it."""
    return found["low"], found["high"]


def _scores(source: Source) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for folder in sorted((source.cell / "scores").glob("*/")):
        for name in source.systems:
            yield folder.name, name, files.read_object(folder / f"{name}.json")


def _quarters(path: Path) -> list[tuple[float, float]]:
    rows = [row for _, row in read_rows(path, {"reference": str, "correct": bool})]
    return judged.accuracy_by_length(
        [row["reference"] for row in rows], [row["correct"] for row in rows]
    )


def _policies(source: Source) -> list[dict[str, Any]]:
    """Those whose answers are the decoder's; of several decoders, `of` and `name` say whose."""
    found = files.read_object(source.cell / "benchmark" / "refresh.json")["policies"]
    decoders = {one["decoder"] for one in found} - {FULL.reader}
    whose = {name: name for name in decoders} if len(decoders) > 1 else {}
    named = [{**one, "of": whose.get(one["decoder"], "")} for one in found if one["positions"]]
    return [{**one, "name": ", ".join(filter(None, (one["name"], one["of"])))} for one in named]


def _answers(source: Source) -> list[tuple[str, dict[str, Any]]]:
    """Each under its system and, where these differ, its batch and prompt: sizes are no seeds."""
    found = files.read_object(source.cell / "benchmark" / "inference.json")["answers"]
    sizes = {(one["batch"], one["prompt"]) for one in found}
    return [
        (
            one["system"]
            if len(sizes) == 1
            else f"{one['system']}, batch {one['batch']}, {one['prompt']} tokens in",
            one,
        )
        for one in found
    ]


def _tokens(source: Source, system: str) -> float:
    """Tokens of the run that made a system and, unless from scratch, of what it is made of."""
    own = _trained_on(source.cell / "metrics" / TRAINED_BY[system])
    if system == "scratch":
        return own
    own += source.full_tokens + _trained_on(source.workdir / "metrics" / "full")
    if system == "full_tuned":  # nothing of it was cut
        return own
    with np.load(source.cell / "importance.npz") as stored:
        return own + json.loads(str(stored["provenance"]))["tokens"]


def _trained_on(folder: Path) -> float:
    return sum((row.get("all_tokens", 0) for row in read_metrics(folder)), 0.0)


def _layers(kept: Mapping[str, np.ndarray]) -> np.ndarray:
    """Those that stay; all where the file does not say."""
    return kept["layers"] if "layers" in kept else np.arange(len(kept["intermediate"]))


def _shared(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean share of each row of indices that is in the other's same row."""
    pairs = zip(np.atleast_2d(ours), np.atleast_2d(theirs), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in pairs]))
