"""Parallel text: pairs of lines become instruction data, and a tokenizer is trained on it."""

import pytest

from configs import default
from overfill_jax.data import jsonl, make
from overfill_jax.data.parallel import read_pairs
from overfill_jax.data.sources import read_lines
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.errors import InputError

GERMAN = ("Ein Mann läuft.", "Zwei Hunde\u2028schlafen.", 'Ein "Kind" singt.')
ENGLISH = ("A man runs.", "Two dogs sleep.", 'A "child" sings.')


def write(folder, german=GERMAN, english=ENGLISH, name="train"):
    for ending, lines in ((".de", german), (".en", english)):
        (folder / f"{name}{ending}").write_text("".join(f"{line}\n" for line in lines))
    return folder / f"{name}.de"


def make_config(source, **data):
    config = default.get_config()
    config.data.update({"train": str(source), "target": ".en", **data})
    return config


def test_lines_become_prompts_and_answers(tmp_path):
    config = make_config(write(tmp_path), wording="In English: {line}", vocab_size=48)
    config.text.prompt_column, config.text.response_column = "question", "answer"
    make.run(config, tmp_path)
    lines = read_lines(tmp_path / "data", "train")
    assert [number for number, _ in lines] == [1, 2, 3]
    assert [jsonl.parse(line) for _, line in lines] == [
        {"question": f"In English: {german}", "answer": english}
        for german, english in zip(GERMAN, ENGLISH, strict=True)
    ]
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer.vocab_size == 48
    for text in (*GERMAN, *ENGLISH):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("english", "said"),
    [
        (ENGLISH[:2], r"train\.en: found 2 lines, expected 3, as in train\.de"),
        ((*ENGLISH[:2], " "), r"train\.en:3: found a blank line"),
    ],
)
def test_lines_that_do_not_pair_are_refused(tmp_path, english, said):
    path = write(tmp_path, english=english)
    with pytest.raises(InputError, match=said):
        read_pairs(path, ".en")
    with pytest.raises(InputError, match=said):
        make.run(make_config(path), tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_wording_without_the_line_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"data\.wording: found 'Translate\.', .*\{line\}"):
        make.run(make_config(write(tmp_path), wording="Translate."), tmp_path)


@pytest.mark.parametrize("target", ["en", ".", "/en", ".de"])
def test_a_target_that_ends_no_other_file_is_refused(tmp_path, target):
    with pytest.raises(InputError, match=rf"data\.target: found '{target}', expected .* '\.en'"):
        make.run(make_config(write(tmp_path), target=target), tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line(tmp_path):
    path = write(tmp_path, german=("\ufeff" + GERMAN[0], *GERMAN[1:]))
    assert read_pairs(path, ".en")[0] == (GERMAN[0], ENGLISH[0])


@pytest.mark.parametrize("vocab_size", [4, 8000])
def test_a_vocabulary_that_the_texts_do_not_give_is_refused(tmp_path, vocab_size):
    config = make_config(write(tmp_path), vocab_size=vocab_size)
    with pytest.raises(InputError, match=rf"data\.vocab_size: found {vocab_size}, .*[Vv]ocab"):
        make.run(config, tmp_path)
    assert not (tmp_path / "tokenizer").exists()


def test_a_tokenizer_reads_the_whole_of_long_texts(tmp_path):
    long = "Ein Mann läuft. " * 500 + "Ω?"
    config = make_config(write(tmp_path, german=(*GERMAN[:2], long)), vocab_size=48)
    make.run(config, tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer.decode(tokenizer.encode(long)) == long


def test_a_tokenizer_is_trained_on_columns_that_are_there(tmp_path):
    config = make_config(write(tmp_path))
    make.run(config, tmp_path / "pairs")
    config.data.update({"train": str(tmp_path / "pairs" / "data"), "target": "", "vocab_size": 48})
    config.text.response_column = "reply"
    with pytest.raises(InputError, match=r"data, line 1: no 'reply'; expected the columns"):
        make.run(config, tmp_path / "other")
    assert not (tmp_path / "other" / "tokenizer").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "not JSON"),
        (r'{"prompt": "a", "response": "\ud800"}', "'response' is not valid Unicode"),
    ],
)
def test_a_line_that_no_tokenizer_can_be_trained_on_is_named(tmp_path, line, said):
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "a", "response": "b"}}\n{line}\n')
    config = make_config(tmp_path / "rows.jsonl", target="", vocab_size=48)
    with pytest.raises(InputError, match=rf"data, line 2: {said}"):
        make.run(config, tmp_path)
    assert not (tmp_path / "tokenizer").exists()
