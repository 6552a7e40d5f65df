"""Examples whose every id tells where it belongs, and batches taken apart again."""

import fractions
import hashlib
from collections.abc import Sequence

import numpy as np

from overfill_jax.data.instructions import Example
from overfill_jax.data.mixture import Mixture, Part
from overfill_jax.data.store import Tokens


def from_examples(examples: Sequence[Example]) -> Tokens:
    """Examples in memory as `Tokens`."""
    prompts = np.array([len(one.prompt) for one in examples], np.int64)
    answers = np.array([len(one.answer) for one in examples], np.int64)
    pieces = [ids for one in examples for ids in (one.prompt, one.answer)]
    ids = np.concatenate([np.zeros(0, np.int32), *pieces])
    starts = np.concatenate([[0], np.cumsum(prompts + answers)])
    rows = np.array([one.row for one in examples], np.int64)
    digest = hashlib.sha256(b"".join(a.tobytes() for a in (ids, starts, prompts))).hexdigest()
    return Tokens(digest, ids, starts, prompts, rows)


def make_mixture(*sizes, weights=None, prompts=(1, 40), answers=(1, 60), seed=0):
    """Parts of `sizes` examples; ids are 1000 * example + place, and rows 10 * example."""
    rng = np.random.default_rng(seed)
    parts, first = [], 0
    for part, size in enumerate(sizes):
        examples = []
        for i in range(first, first + size):
            p, r = int(rng.integers(*prompts)), int(rng.integers(*answers))
            ids = 1000 * i + np.arange(p + r, dtype=np.int32)
            examples.append(Example(10 * (i - first) + 10, ids[:p], ids[p:], "", ""))
        weight = fractions.Fraction(weights[part] if weights else 1)
        parts.append(Part(f"part{part}.jsonl", weight, from_examples(examples)))
        first += size
    return Mixture(tuple(parts))


def pieces_of(batch, row):
    """Prompt, answer and index of each example of a row, after checks of all the other arrays.

    Segments count from 1 and lie one behind the other, so no slot is shared.
    """
    segments = batch.answer_segments[row]
    count = int(segments.max(initial=0))
    for stream in (batch.prompt_segments[row], segments):
        used = stream[: np.count_nonzero(stream)]
        assert not stream[len(used) :].any()
        assert sorted(set(used.tolist())) == list(range(1, count + 1))
        assert (np.diff(used) >= 0).all()
    padding = segments == 0
    assert not batch.answer[row][padding].any()
    assert not batch.prompt[row][batch.prompt_segments[row] == 0].any()
    assert (batch.examples[row][padding] == -1).all()
    pieces = []
    for segment in range(1, count + 1):
        (slots,), (own,) = (
            (batch.prompt_segments[row] == segment).nonzero(),
            np.nonzero(segments == segment),
        )
        assert batch.prompt_positions[row, slots].tolist() == list(range(len(slots)))
        end = len(slots) + len(own)
        assert batch.answer_positions[row, own].tolist() == list(range(len(slots), end))
        assert set(batch.prompt_end[row, own].tolist()) == {slots[-1]}
        (example,) = set(batch.examples[row, own].tolist())
        pieces.append((batch.prompt[row, slots], batch.answer[row, own], example))
    return pieces
