"""Owns the examples of a run: one source, or several with weights, under one count of indices."""

import bisect
import dataclasses
import fractions
import functools
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from overfill_jax.data.instructions import ReadOptions
from overfill_jax.data.sources import parse_sources
from overfill_jax.data.store import Tokens, load_tokens
from overfill_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Part:
    """The examples of one source, and how often an epoch goes through them."""

    name: str
    weight: fractions.Fraction
    tokens: Tokens


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Examples of all parts, counted through from 0 in their order."""

    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return self.starts[-1]

    @functools.cached_property
    def starts(self) -> list[int]:
        """Index of the first example of each part, and the number of all."""
        return np.cumsum([0, *(len(part.tokens) for part in self.parts)]).tolist()

    @functools.cached_property
    def prompts(self) -> Int[np.ndarray, "N"]:
        """Length of each prompt."""
        return np.concatenate([part.tokens.prompts for part in self.parts])

    @functools.cached_property
    def answers(self) -> Int[np.ndarray, "N"]:
        """Length of each answer."""
        return np.concatenate([part.tokens.answers for part in self.parts])

    @property
    def digest(self) -> str:
        """Of the examples and their weights."""
        text = "\n".join(f"{part.tokens.digest} {part.weight}" for part in self.parts)
        return hashlib.sha256(text.encode()).hexdigest()

    def ids(self, example: int) -> Int[np.ndarray, "T"]:
        """Prompt and answer of one example."""
        part = bisect.bisect_right(self.starts, example) - 1
        return self.parts[part].tokens.of(example - self.starts[part])

    def hold_out(self, count: int) -> tuple["Mixture", "Mixture"]:
        """Cuts off the last examples of every part, `count` in all, in proportion to the parts.

        A conversation that gave several examples stays on one side, so it may be a few more.

        Raises:
          InputError: a part would have nothing left, or too little to give.
        """
        kept, held = [], []
        for part, share in zip(self.parts, self._shares(count), strict=True):
            tokens = part.tokens
            cut = len(tokens) - share
            if 0 < cut < len(tokens):
                cut = int(np.searchsorted(tokens.rows, tokens.rows[cut]))
            if cut <= 0:
                raise InputError(
                    f"{part.name}: found {len(tokens)} usable examples, expected more than the "
                    f"{share} to be held out of it"
                )
            kept.append(dataclasses.replace(part, tokens=tokens.part(0, cut)))
            if cut < len(tokens):
                held.append(dataclasses.replace(part, tokens=tokens.part(cut, len(tokens))))
        return Mixture(tuple(kept)), Mixture(tuple(held))

    def first(self, count: int) -> "Mixture":
        """The first examples of every part, `count` at most in all, in proportion to the parts."""
        shares = zip(self.parts, self._shares(min(count, len(self))), strict=True)
        return Mixture(
            tuple(
                dataclasses.replace(part, tokens=part.tokens.part(0, share))
                for part, share in shares
                if share
            )
        )

    def _shares(self, count: int) -> Iterator[int]:
        ends = [round(fractions.Fraction(count * start, len(self))) for start in self.starts]
        return (end - begin for begin, end in itertools.pairwise(ends))


def load_mixture(
    source: str, split: str, tokenizer: Path, options: ReadOptions, folder: Path
) -> Mixture:
    """Tokenises the sources of `source` (see `parse_sources`), or finds their tokens in `folder`.

    Raises:
      InputError: a source is not valid, cannot be read or holds no usable row.
    """
    return Mixture(
        tuple(
            Part(str(s.path), s.weight, load_tokens(s.path, split, tokenizer, options, folder))
            for s in parse_sources(source)
        )
    )
