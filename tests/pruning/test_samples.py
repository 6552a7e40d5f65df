"""Calibration text: the longest rows, the first, or all joined and cut into whole samples."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from configs.default import get_config
from overfill_jax.data import instructions
from overfill_jax.data.instructions import Example
from overfill_jax.data.tokenizer_training import train_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.pruning.calibrate import gather, of_families
from overfill_jax.pruning.samples import Row, join, select
from overfill_jax.weights.folders import save_model
from tests.builders import make_model, texts_of


def rows(*lengths, answers=()):
    """Rows of tokens that count on from one row to the next."""
    ends = np.cumsum(lengths)
    answers = answers or [0] * len(lengths)
    return [
        Row(np.arange(e - n, e, dtype=np.int32), a)
        for n, e, a in zip(lengths, ends, answers, strict=True)
    ]


def never():
    """What must not be read any more."""
    yield pytest.fail("one row too many was read")


def test_longest_and_first_rows_are_cut_and_padded():
    longest = select(rows(2, 9, 5), "all", 2, 6, longest=True)
    assert longest.tokens.tolist() == [[2, 3, 4, 5, 6, 7], [11, 12, 13, 14, 15, 0]]
    assert longest.lengths.tolist() == [6, 5]
    first = select(rows(2, 9, 5), "all", 2, 6, longest=False)
    assert first.tokens.tolist() == [[0, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7]]


def test_answers_are_marked_whether_they_count_alone_or_not():
    given = rows(4, 9, 5, answers=(1, 7, 3))
    everything = select(given, "all", 3, 6, longest=False)
    assert (everything.starts.tolist(), everything.answers.tolist()) == ([0, 0, 0], [1, 7, 3])
    alone = select(given, "answer", 3, 6, longest=False)  # of the second nothing is left
    assert alone.starts.tolist() == alone.answers.tolist() == [1, 3]
    (batch,) = everything.of_answers().batches(3)
    assert batch.counted.sum(1).tolist() == [3, 0, 2]
    assert select(rows(4, 9), "all", 2, 6, longest=False).of_answers() is None
    assert select(rows(9, answers=(7,)), "all", 1, 6, longest=False).of_answers() is None


def test_the_first_rows_are_all_that_is_read():
    given = rows(9, 4, 9, answers=(7, 1, 2))
    found = select(itertools.chain(given, never()), "answer", 2, 6, longest=False)
    assert found.answers.tolist() == [1, 2]
    assert join(itertools.chain(given, never()), 2, 11).tokens.shape == (2, 11)


@pytest.mark.parametrize(("choice", "read"), [("first", 2), ("longest", 40), ("packed", 1)])
def test_no_more_of_a_source_is_tokenised_than_needed(tmp_path, monkeypatch, choice, read):
    lines = [json.dumps({"prompt": f"how many has {n}?", "response": "4"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(["{}", *lines]))
    train_tokenizer(texts_of([json.loads(line) for line in lines]), 40, tmp_path / "t")
    save_model(tmp_path / "full", make_model(), tmp_path / "t")
    config = get_config()
    config.calibrate.source = str(tmp_path / "rows.jsonl")
    config.calibrate.update({"rows": choice, "samples": 2, "length": 5})
    encoded, told = [], []
    encode = instructions.chat.encode_conversation
    monkeypatch.setattr(
        instructions.chat, "encode_conversation", lambda *a: encoded.append(a) or encode(*a)
    )
    monkeypatch.setattr(logging, "info", lambda text, *values: told.append(text % values))
    monkeypatch.setattr(logging, "warning", lambda text, *values: told.append(text % values))
    assert len(gather(config, tmp_path).tokens) == 2
    assert len(encoded) == read
    source = tmp_path / "rows.jsonl"
    assert told == [f"{source}: {read} examples", f"{source}: rejected 1: no 'prompt' (line 1)"]


@pytest.fixture
def text(tmp_path):
    """The config of a calibration on lines of text, which the test writes."""
    train_tokenizer(["how many has ann?"], 30, tmp_path / "t")
    save_model(tmp_path / "full", make_model(), tmp_path / "t")
    config = get_config()
    config.calibrate.source = str(tmp_path / "lines.txt")
    config.calibrate.update(rows="first", samples=9, length=40)
    return config


def test_lines_of_text_are_rows(text, tmp_path):
    """Blank ones are none; a mark at the file's start and Unicode's own ends of lines are text."""
    path = Path(text.calibrate.source)
    path.write_bytes("\ufeffhow many\r\n\n \nhas\u2028ann?".encode())
    found = gather(text, tmp_path)
    path.write_bytes(b"how many\nhas ann?\n")
    plain = gather(text, tmp_path)
    assert len(found.tokens) == len(plain.tokens) == 2
    first = [one.tokens[0, : one.lengths[0]].tolist() for one in (found, plain)]
    assert first[0] == first[1]


@pytest.mark.parametrize(
    ("lines", "key", "value", "message"),
    [
        (b" \n\n", "rows", "first", r"lines\.txt: no line with text in it"),
        (b"\xff", "rows", "first", r"lines\.txt: not readable as text \(.*can't decode byte 0xff"),
        (None, "rows", "first", r"lines\.txt: not readable as text \(.*No such file"),
        (b"a", "positions", "answer", r"calibrate\.positions: found 'answer', but .* plain text"),
        (b"a", "families", ("a",), r"calibrate\.families: found \('a',\), but .* plain text"),
    ],
)
def test_text_that_does_not_do(text, tmp_path, lines, key, value, message):
    if lines is not None:
        Path(text.calibrate.source).write_bytes(lines)
    text.calibrate[key] = value
    with pytest.raises(InputError, match=message):
        gather(text, tmp_path)


def test_rows_of_some_families_alone():
    empty = np.zeros(1, np.int32)
    examples = [Example(n, empty, empty, family, "") for n, family in enumerate("abcab")]
    source = Path("rows.jsonl")

    def kept(*families):
        return [one.row for one in of_families(examples, families, source)]

    assert kept() == [0, 1, 2, 3, 4]
    assert kept("a") == [0, 3]
    assert kept("c", "b") == [1, 2, 4]
    with pytest.raises(InputError, match=r"calibrate\.families: rows\.jsonl has no row of .* 'd'"):
        kept("a", "d")


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
