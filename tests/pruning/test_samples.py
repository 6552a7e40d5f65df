"""Calibration text: the longest rows, the first, or all joined and cut into whole samples."""

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from overfill_jax.errors import InputError
from overfill_jax.pruning.calibrate import gather
from overfill_jax.pruning.samples import join, select


def rows(*lengths):
    """Rows of tokens that count on from one row to the next."""
    ends = np.cumsum(lengths)
    return [np.arange(e - n, e, dtype=np.int32) for n, e in zip(lengths, ends, strict=True)]


def test_longest_and_first_rows_are_cut_and_padded():
    longest = select(rows(2, 9, 5), [0, 0, 0], 2, 6, longest=True)
    assert longest.tokens.tolist() == [[2, 3, 4, 5, 6, 7], [11, 12, 13, 14, 15, 0]]
    assert longest.lengths.tolist() == [6, 5]
    first = select(rows(2, 9, 5), [0, 0, 0], 2, 6, longest=False)
    assert first.tokens.tolist() == [[0, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7]]


def test_joined_rows_fill_every_sample():
    samples = join(rows(2, 9, 5, 1), 9, 4)
    assert samples.tokens.tolist() == np.arange(16).reshape(4, 4).tolist()  # the last one is left
    assert samples.lengths.tolist() == [4] * 4
    assert samples.starts.tolist() == [0] * 4
    assert join(rows(2, 9, 5, 1), 2, 4).tokens.tolist() == np.arange(8).reshape(2, 4).tolist()


def test_batches_of_joined_rows_have_no_padding():
    (batch,) = join(rows(7, 8), 3, 5).batches(3)
    assert np.asarray(batch.valid).all()
    assert np.asarray(batch.counted).all()


def test_too_little_text(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    join(rows(7, 8), 4, 5)
    assert said == ["calibrate: 3 samples where 4 were asked for"]
    with pytest.raises(InputError, match="15 tokens in all, expected at least one sample of 16"):
        join(rows(7, 8), 4, 16)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", "shortest", r"calibrate\.rows: found 'shortest', expected one of"),
        ("positions", "odd", r"calibrate\.positions: found 'odd', expected one of"),
        ("positions", "answer", r"calibrate\.positions: packed rows are cut anywhere"),
        ("length", 0, r"calibrate\.length: found 0, expected at least 1"),
    ],
)
def test_settings_that_do_not_do(tmp_path, key, value, message):
    calibrate = {"rows": "packed", "positions": "all", "samples": 1, "length": 1, "batch_size": 1}
    with pytest.raises(InputError, match=message):
        gather(ConfigDict({"calibrate": calibrate | {key: value}}), tmp_path)
