"""Owns where rows come from: files, TFDS folders, and mixtures of them with weights.

A source is written `a.jsonl*0.5, folder`: paths with an optional weight, which says how often an
epoch goes through that source.
"""

import dataclasses
import fractions
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from overfill_jax.data import jsonl
from overfill_jax.errors import InputError

MOST = 1000  # of a weight; more is a slip of the keyboard


@dataclasses.dataclass(frozen=True)
class Source:
    """A JSONL file or TFDS folder, and how often an epoch goes through it."""

    path: Path
    weight: fractions.Fraction


def parse_sources(text: str) -> tuple[Source, ...]:
    """Reads `path`, or `path*weight, path*weight`; a path without a weight has weight 1.

    Raises:
      InputError: no path, or a weight that is no number in (0, MOST].
    """
    sources = []
    for entry in text.split(","):
        path, star, weight = (part.strip() for part in entry.rpartition("*"))
        if not star:
            path, weight = weight, "1"
        if not path:
            raise InputError(f"source {text!r}: found {entry!r}, expected PATH or PATH*WEIGHT")
        sources.append(Source(Path(path), _weight(weight, path)))
    return tuple(sources)


def read_lines(path: Path, split: str) -> Sequence[tuple[int, bytes]]:
    """Returns (line number from 1, line) of a JSONL file, or of one split of a TFDS folder.

    Raises:
      InputError: there is nothing at `path`, or it cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such source, expected a JSONL file or a TFDS folder")
    if not path.is_dir():
        return list(jsonl.read_lines(path))
    # TFDS takes half a second to import, and only its folders need it.
    from overfill_jax.data import tfds_rows

    return tfds_rows.read_lines(path, split)


def passes(
    count: int, weight: fractions.Fraction, epoch: int, seed: tuple[int, ...]
) -> Iterator[tuple[int, Int[np.ndarray, "K"]]]:
    """Yields what an epoch takes of a source: the number of each pass, and indices in order.

    A source is an endless sequence of passes, and every epoch goes on where the last one ended.
    So three epochs at weight 1/3 see each of the `count` indices once, a different third each.
    """
    begin, end = int(weight * count * epoch), int(weight * count * (epoch + 1))
    for number in range(begin // count, -(-end // count)):
        order = np.random.default_rng((*seed, number)).permutation(count)
        part = slice(max(begin - number * count, 0), end - number * count)
        yield number, np.sort(order[part])


def mixed_lines(sources: Sequence[Source], split: str, seed: int) -> Iterator[tuple[int, bytes]]:
    """Yields the numbered lines of one epoch of a mixture, source after source.

    The lines of a single whole source keep their numbers; those of a mixture are counted anew.

    Raises:
      InputError: a source is missing, cannot be read or is empty, or all give no line.
    """
    plain = len(sources) == 1 and sources[0].weight == 1
    row = 0
    for index, source in enumerate(sources):
        lines = read_lines(source.path, split)
        if not lines:
            raise InputError(f"{source.path}: it is empty, expected one JSON object a line")
        for _, chosen in passes(len(lines), source.weight, 0, (seed, index)):
            for i in chosen:
                row += 1
                yield (lines[i][0] if plain else row), lines[i][1]
    if not row:
        raise InputError(f"source {sources[0].path}: its weight takes less than one line of it")


def _weight(text: str, path: str) -> fractions.Fraction:
    try:
        weight = fractions.Fraction(text)
    except (ValueError, ZeroDivisionError):
        weight = None
    if weight is None or not 0 < weight <= MOST:
        raise InputError(
            f"source {path}: found weight {text!r}, expected a number above 0, at most {MOST}"
        )
    return weight
