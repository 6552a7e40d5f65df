"""Stored tokens: made once, equal to what they came from, and never used when anything differs."""

import dataclasses
import json
import shutil
import threading
import time

import numpy as np
import pytest
from absl import logging

from overfill_jax import distributed
from overfill_jax.data import chat, store
from overfill_jax.data.instructions import ReadOptions, load_examples
from overfill_jax.data.mixture import load_mixture
from overfill_jax.data.store import load_tokens
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.errors import InputError
from tests.data.examples import make_mixture

OPTIONS = ReadOptions("question", "answer", "every", 200, 300)
TURNS = [("user", "the cat"), ("assistant", "a hat"), ("user", "why?"), ("assistant", "red")]
TALK = {"messages": [{"role": role, "content": text} for role, text in TURNS]}


def write(path, count, *more):
    rows = [{"question": f"the cat has {i} hats", "answer": "red " * i} for i in range(1, count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "rows.jsonl", 30, TALK, "nonsense", {"question": "x"})


@pytest.fixture
def load(source, chatml, tmp_path):
    """Loads the tokens of `source`, whatever is changed."""

    def call(source=source, split="train", tokenizer=chatml, options=OPTIONS):
        return load_tokens(source, split, tokenizer, options, tmp_path / "tokens")

    return call


@pytest.fixture
def writes(monkeypatch):
    """Names of the folders that are written."""
    names = []
    write = store._write

    def spy(*arguments):
        names.append(arguments[-2].name)
        write(*arguments)

    monkeypatch.setattr(store, "_write", spy)
    return names


def test_equals_the_examples(load, source, chatml):
    tokens = load()
    tools = load_tokenizer(chatml), chat.load_template(chatml)
    examples, _ = load_examples(source, "train", *tools, OPTIONS)
    assert len(tokens) == len(examples) == 31
    assert tokens.rows.tolist() == [one.row for one in examples]
    assert tokens.answers.tolist() == [len(one.answer) for one in examples]
    for i, one in enumerate(examples):
        cut = tokens.prompts[i]
        assert np.array_equal(tokens.of(i)[:cut], one.prompt)
        assert np.array_equal(tokens.of(i)[cut:], one.answer)


def test_made_once_and_rejected_rows_reported_each_time(load, writes, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    first, again = load(), load()
    assert len(writes) == 1
    assert np.array_equal(first.ids, again.ids)
    assert first.digest == again.digest
    assert len(said) == 2
    assert said[0] == said[1]
    assert said[0].endswith(
        "rejected 2: a JSON str, expected an object (line 31); no 'answer' (line 32)"
    )


def test_anything_different_is_made_anew(load, source, chatml, tmp_path, writes):
    load()
    load(options=dataclasses.replace(OPTIONS, turns="last"))
    load(options=dataclasses.replace(OPTIONS, max_total_tokens=299))
    other = shutil.copytree(chatml, tmp_path / "other")
    load(tokenizer=other)  # the same content in another place
    assert len(writes) == 3
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|im_start|>"}))
    load(tokenizer=other)
    (other / "chat_template.jinja").write_text(chat.PLAIN)
    load(tokenizer=other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer + "\n")
    load(tokenizer=other)
    (other / "added_tokens.json").write_text("{}")
    load(tokenizer=other)
    source.write_text(source.read_text().replace("has 7 hats", "had 7 hats"))
    load()
    assert len(set(writes)) == len(writes) == 8
    source.write_text(source.read_text().replace("had 7 hats", "has 7 hats"))
    load()
    assert len(writes) == 8


def test_of_a_model_only_the_stop_tokens_count(load, chatml, tmp_path, writes):
    """Full model and decoder share their tokens, though not shape, fingerprint and origin."""
    load()
    other = shutil.copytree(chatml, tmp_path / "other")
    for name in ("config.json", "generation_config.json"):
        (other / name).write_text(json.dumps({"model": {"hidden_size": 8}, "temperature": 0.6}))
    load(tokenizer=other)
    load(tokenizer=other / "tokenizer.json")
    assert len(writes) == 1
    for name in ("config.json", "generation_config.json"):
        (other / name).write_text(json.dumps({"eos_token_id": [1, 2]}))
        load(tokenizer=other)
    assert len(set(writes)) == len(writes) == 3


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 8 * 4])  # whole ids


@pytest.mark.parametrize("name", ["ids", "starts.npy", "prompts.npy", "rows.npy", "about.json"])
@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()], ids=["cut", "gone"])
def test_what_is_not_whole_is_made_anew(load, tmp_path, writes, name, damage):
    whole = load()
    ids = np.array(whole.ids)
    (place,) = (tmp_path / "tokens").iterdir()
    damage(place / name)
    assert np.array_equal(load().ids, ids)
    assert len(writes) == 2
    load()
    assert len(writes) == 2


def test_a_failure_leaves_nothing(load, tmp_path, source, chatml):
    with pytest.raises(InputError, match="no usable row"):
        load(source=write(tmp_path / "bad.jsonl", 1, "nonsense"))
    with pytest.raises(InputError, match="none: no such source"):
        load(source=tmp_path / "none")
    assert list((tmp_path / "tokens").iterdir()) == []


def test_other_processes_wait_for_the_first(load, monkeypatch, writes):
    """Here a thread that is told it is another process."""
    main = threading.current_thread()
    monkeypatch.setattr(distributed, "is_main", lambda: threading.current_thread() is main)
    found = []
    other = threading.Thread(target=lambda: found.append(load()))
    other.start()
    time.sleep(0.3)
    assert not writes and not found
    mine = load()
    other.join(10)
    assert len(writes) == 1
    assert np.array_equal(found[0].ids, mine.ids)


def test_only_the_first_process_says_that_tokens_are_not_whole(load, tmp_path, monkeypatch):
    """The others wait for it in silence."""
    load()
    (place,) = (tmp_path / "tokens").iterdir()
    truncate(place / "ids")
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    main = threading.current_thread()
    monkeypatch.setattr(distributed, "is_main", lambda: threading.current_thread() is main)
    other = threading.Thread(target=load)
    other.start()
    time.sleep(0.3)
    assert not said
    load()
    other.join(10)
    assert sum("not whole" in one for one in said) == 1


def test_a_source_that_other_hosts_have_not_is_refused(load, source, monkeypatch, writes):
    monkeypatch.setattr(distributed, "gather", lambda own, _: [own, "another", own])
    with pytest.raises(InputError) as caught:
        load()
    assert str(caught.value).startswith(f"{source}: found different contents on different hosts")
    assert "in process 0, 2, another in process 1)" in str(caught.value)
    assert not writes


def test_a_mixture_counts_its_parts_through(source, chatml, tmp_path):
    other = write(tmp_path / "other.jsonl", 11)
    text = f"{source}*0.5, {other}*2"
    mixture = load_mixture(text, "train", chatml, OPTIONS, tmp_path / "tokens")
    assert len(mixture) == 31 + 10
    assert [part.name for part in mixture.parts] == [str(source), str(other)]
    first, second = (part.tokens for part in mixture.parts)
    assert np.array_equal(mixture.ids(30), first.of(30))
    assert np.array_equal(mixture.ids(31), second.of(0))
    assert mixture.prompts[33] == second.prompts[2]
    same = load_mixture(text, "train", chatml, OPTIONS, tmp_path / "tokens")
    heavier = load_mixture(f"{source}, {other}*2", "train", chatml, OPTIONS, tmp_path / "tokens")
    assert mixture.digest == same.digest != heavier.digest


def test_the_last_examples_of_every_part_are_held_out():
    mixture = make_mixture(60, 30, 10)
    kept, held = mixture.hold_out(10)
    assert [len(part.tokens) for part in kept.parts] == [54, 27, 9]
    assert [len(part.tokens) for part in held.parts] == [6, 3, 1]
    assert held.ids(6)[0] == 1000 * (60 + 27)
    assert np.array_equal(kept.ids(54), mixture.ids(60))
    assert len({mixture.digest, kept.digest, held.digest}) == 3
    assert len(make_mixture(60, 2).hold_out(10)[1].parts) == 1  # too few to give any
    assert [len(one) for one in make_mixture(20).hold_out(7)] == [13, 7]
    with pytest.raises(InputError, match=r"part0\.jsonl: found 20 usable examples, expected more"):
        make_mixture(20).hold_out(20)


def test_a_conversation_is_not_torn_apart(chatml, tmp_path):
    source = write(tmp_path / "talks.jsonl", 3, *[TALK] * 4)
    mixture = load_mixture(str(source), "train", chatml, OPTIONS, tmp_path / "tokens")
    assert len(mixture) == 10
    for count, kept, held in ((1, 8, 2), (2, 8, 2), (3, 6, 4)):
        assert [len(one) for one in mixture.hold_out(count)] == [kept, held]


def test_the_first_examples_of_every_part():
    mixture = make_mixture(6, 4)
    assert [len(mixture.first(count)) for count in (1, 5, 7, 10, 99)] == [1, 5, 7, 10, 10]
    some = mixture.first(5)
    assert [len(part.tokens) for part in some.parts] == [3, 2]
    assert np.array_equal(some.ids(2), mixture.ids(2))
    assert np.array_equal(some.ids(3), mixture.ids(6))
