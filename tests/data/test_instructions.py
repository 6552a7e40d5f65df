"""Instruction rows: every shape that is read, and every row that is not, by its line."""

import dataclasses
import functools
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from overfill_jax.data import chat, tfds_rows
from overfill_jax.data.instructions import (
    ReadOptions,
    Rejected,
    load_examples,
    read_examples,
    read_options,
)
from overfill_jax.data.sources import mixed_lines, parse_sources
from overfill_jax.data.tokenizer_training import train_tokenizer
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.errors import InputError

OPTIONS = ReadOptions(
    prompt_column="question",
    response_column="answer",
    turns="last",
    max_prompt_tokens=200,
    max_total_tokens=300,
)
TALK = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "a red hat"},
    {"role": "user", "content": "the dog"},
    {"role": "assistant", "content": "two hats"},
]
GOOD = {"question": "the cat", "answer": "a red hat", "family": "hats"}


def write(path, *rows):
    """Writes rows, each an object or a line as it is (text or bytes)."""
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    lines = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture
def read(chatml, tmp_path):
    """Writes rows and loads the examples in them."""

    def load(*rows, **options):
        source = write(tmp_path / "rows.jsonl", *rows)
        changed = dataclasses.replace(OPTIONS, **options)
        return load_examples(
            source, "train", load_tokenizer(chatml), chat.load_template(chatml), changed
        )

    return load


def same(one, other):
    return dataclasses.asdict(one).keys() == dataclasses.asdict(other).keys() and all(
        np.array_equal(value, dataclasses.asdict(other)[key])
        for key, value in dataclasses.asdict(one).items()
    )


def test_columns_and_messages_give_the_same_example(read, chatml):
    (columns, messages), rejected = read(GOOD, {"messages": TALK[:2], "family": "hats"})
    assert not rejected
    assert (columns.row, messages.row) == (1, 2)
    assert same(columns, dataclasses.replace(messages, row=1))
    prompt, answer = chat.encode_conversation(
        TALK[:2], load_tokenizer(chatml), chat.load_template(chatml)
    )
    assert (columns.prompt.tolist(), columns.answer.tolist()) == (prompt, answer)
    assert (columns.prompt.dtype, columns.answer.dtype) == (np.int32, np.int32)
    assert (columns.family, columns.reference) == ("hats", "a red hat")


def test_system_message_of_a_row(read, chatml):
    (one,), _ = read(GOOD | {"system": "be nice"})
    text = load_tokenizer(chatml).decode(one.prompt)
    assert text.index("be nice") < text.index("the cat")
    assert one.family == "hats"


def test_a_system_column_beside_a_system_message_is_rejected(read):
    system = {"role": "system", "content": "be nice"}
    examples, (rejected,) = read(GOOD, {"messages": [system, *TALK], "system": "be brief"})
    assert (len(examples), rejected.row) == (1, 2)
    assert rejected.reason == "'system' beside a message of that role, expected one of them"


def test_what_the_tokenizer_cannot_spell_is_told(read, tmp_path, caplog):
    read(GOOD | {"answer": "Ω"})  # a tokenizer of bytes spells everything
    assert "cannot spell" not in caplog.text
    train_tokenizer(["the cat has a red hat", "the dog has two hats"] * 9, 40, tmp_path)
    tools = load_tokenizer(tmp_path), chat.load_template(tmp_path)
    rows = [GOOD, GOOD | {"question": "the cät"}, GOOD, GOOD | {"answer": "Ω"}]
    source = write(tmp_path / "rows.jsonl", *rows)
    found = "rows.jsonl: 2 examples hold what the tokenizer cannot spell, as its unknown token"
    load_examples(source, "train", *tools, OPTIONS)
    assert f"{found} (2 x, lines 2, 4)" in caplog.text
    caplog.clear()
    examples = read_examples(source, "train", *tools, OPTIONS, [])
    assert [one.row for one in itertools.islice(examples, 3)] == [1, 2, 3]
    examples.close()
    assert "rows.jsonl: 1 examples hold" in caplog.text


def test_last_and_every_turn(read):
    (last,), _ = read({"messages": TALK})
    (first, second), _ = read({"messages": TALK}, turns="every")
    assert same(last, second)
    assert first.reference == "a red hat"
    assert second.prompt[: len(first.prompt)].tolist() == first.prompt.tolist()
    assert {first.row, second.row} == {1}


def test_every_turn_rejects_only_the_turn_over_the_limit(read):
    (first,), rejected = read(
        {"messages": TALK}, turns="every", max_prompt_tokens=len(read(GOOD)[0][0].prompt)
    )
    assert first.reference == "a red hat"
    assert [one.row for one in rejected] == [1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"question": ', "not JSON"),
        (b'{"question": "\xff"}', "not UTF-8"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "a JSON list, expected an object"),
        ({"answer": "x"}, "no 'question'"),
        ({"question": "x"}, "no 'answer'"),
        ({"question": " \n", "answer": "x"}, "'question' is empty"),
        ({"question": "x", "answer": ""}, "'answer' is empty"),
        ({"question": 3, "answer": "x"}, "'question' is int, expected text"),
        ({"question": "x", "answer": ["x"]}, "'answer' is list, expected text"),
        ('{"question": "\\ud800", "answer": "x"}', "'question' is not valid Unicode"),
        (GOOD | {"family": None}, "'family' is NoneType, expected text"),
        ({"messages": {}}, "'messages' is not a list of objects"),
        ({"messages": []}, "no answer: the last message is not the assistant's"),
        ({"messages": TALK[:3]}, "no answer: the last message is not the assistant's"),
        ({"messages": TALK[1:2]}, "empty prompt: no message of a user"),
        ({"messages": [{"role": "user"}, TALK[1]]}, "message 1: no 'content'"),
        (
            {"messages": [TALK[0], {"role": "assistant", "content": " "}]},
            "message 2: 'content' is empty",
        ),
        ({"question": "x " * 500, "answer": "y"}, "prompt longer than 200 tokens"),
        ({"question": "x", "answer": "y " * 500}, "prompt and answer longer than 300 tokens"),
    ],
)
def test_unusable_rows_are_returned_by_line(read, row, reason):
    examples, rejected = read(GOOD, "", row, GOOD)
    assert [one.row for one in examples] == [1, 4]
    assert rejected == [Rejected(3, reason)]


def test_limits_are_inclusive(read):
    (one,), _ = read(GOOD)
    total = len(one.prompt) + len(one.answer)
    assert read(GOOD, max_prompt_tokens=len(one.prompt), max_total_tokens=total)[0]
    for limits in ({"max_prompt_tokens": len(one.prompt) - 1}, {"max_total_tokens": total - 1}):
        with pytest.raises(InputError, match="longer than"):
            read(GOOD, **limits)


def test_rejected_rows_are_reported(read, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    read(GOOD, *["nonsense"] * 7, {"question": "x"})
    (line,) = said
    assert line.endswith(
        "rows.jsonl: rejected 8: not JSON (7 x, lines 2, 3, 4, 5, 6, ...); no 'answer' (line 9)"
    )


def test_no_usable_row_stops_and_says_why(read, chatml, tmp_path):
    with pytest.raises(InputError, match=r"rows\.jsonl: no usable row: not JSON \(2 x, lines 1, 2"):
        read("nonsense", "nonsense")
    with pytest.raises(InputError, match=r"rows\.jsonl: no usable row: it is empty$"):
        read()
    with pytest.raises(InputError, match="nowhere: no such source"):
        tools = load_tokenizer(chatml), chat.load_template(chatml)
        load_examples(tmp_path / "nowhere", "train", *tools, OPTIONS)


def test_a_template_that_refuses_a_row_rejects_it(llama3, tmp_path):
    source = write(
        tmp_path / "rows.jsonl", GOOD, {"messages": [{"role": "x", "content": "y"}, *TALK]}
    )
    _, rejected = load_examples(
        source, "train", load_tokenizer(llama3), chat.load_template(llama3), OPTIONS
    )
    assert rejected[0].row == 2
    assert rejected[0].reason.endswith("the chat template failed (unknown role x)")


def test_options_come_from_the_config():
    text = ConfigDict(dataclasses.asdict(OPTIONS))
    assert read_options(text) == OPTIONS
    text.turns = "first"
    with pytest.raises(InputError, match=r"^text\.turns: found 'first', expected one of"):
        read_options(text)


def test_gsm8k(shared_data):
    source, model = shared_data / "gsm8k" / "test.jsonl", shared_data / "tokenizer/llama2.model"
    if not (source.is_file() and model.is_file()):
        pytest.skip(f"no {source} or {model}")
    tokenizer = load_tokenizer(model)
    options = dataclasses.replace(OPTIONS, max_prompt_tokens=512, max_total_tokens=1024)
    examples, rejected = load_examples(
        source, "test", tokenizer, chat.load_template(model), options
    )
    assert (len(examples), rejected) == (1319, [])
    assert all(tokenizer.decode(one.answer) == one.reference.strip() for one in examples)
    assert all(one.answer[-1] == 2 and 2 not in one.answer[:-1] for one in examples)


def build(target, **sources):
    """A TFDS folder of what `sources` name, by split."""
    parsed = {split: parse_sources(str(source)) for split, source in sources.items()}
    lines = {
        split: functools.partial(mixed_lines, mixture, split, 0)
        for split, mixture in parsed.items()
    }
    tfds_rows.build(lines, target)


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A TFDS folder of two splits, and the JSONL file of its first one."""
    folder = tmp_path_factory.mktemp("tfds")
    rows = [GOOD | {"question": f"the cat has {i} hats"} for i in range(50)]
    train = write(folder / "train.jsonl", *rows[:20], "nonsense", "", b'{"a": "\xff"}', *rows[20:])
    build(folder / "rows", train=train, validation=write(folder / "v.jsonl", GOOD))
    return folder / "rows", train


def test_tfds_folder_equals_its_file(tfds_folder, chatml):
    folder, train = tfds_folder
    tools = load_tokenizer(chatml), chat.load_template(chatml)
    of_folder, rejected = load_examples(folder, "train", *tools, OPTIONS)
    of_file, rejected_of_file = load_examples(train, "train", *tools, OPTIONS)
    assert rejected == rejected_of_file == [Rejected(21, "not JSON"), Rejected(23, "not UTF-8")]
    assert len(of_folder) == len(of_file) == 50
    assert all(map(same, of_folder, of_file))
    assert len(load_examples(folder, "validation", *tools, OPTIONS)[0]) == 1
    with pytest.raises(InputError, match=r"no split 'test', expected one of \['train', 'valid"):
        load_examples(folder, "test", *tools, OPTIONS)


def test_tfds_needs_no_tensorflow(tmp_path):
    program = f"""
import sys
from pathlib import Path
from overfill_jax.data import tfds_rows
tfds_rows.build({{"train": lambda: [(1, b"{{}}")]}}, Path({str(tmp_path / "rows")!r}))
assert tfds_rows.read_lines(Path({str(tmp_path / "rows")!r}), "train")[0][0] == 1
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def damage_info(version):
    (version / "dataset_info.json").unlink()


def damage_missing(version):
    next(version.glob("*train.array_record*")).unlink()


def damage_truncated(version):
    shard = next(version.glob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_info, damage_missing, damage_truncated])
def test_damaged_tfds_folder(tfds_folder, tmp_path, damage):
    copy = shutil.copytree(tfds_folder[0], tmp_path / "copy")
    damage(copy / "jsonl_rows" / "1.0.0")
    with pytest.raises(InputError, match="copy: not a whole TFDS folder of rows"):
        tfds_rows.read_lines(copy, "train")


def test_nothing_half_written_is_left(tmp_path):
    good, empty = write(tmp_path / "good.jsonl", GOOD), write(tmp_path / "empty.jsonl")
    for bad, message in ((empty, "empty, expected one"), (tmp_path / "none", "no such source")):
        with pytest.raises(InputError, match=message):
            build(tmp_path / "rows", train=good, validation=bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "good.jsonl"]
