"""Tokenizers: special tokens, stop ids, sizes, streaming, and errors that name the file."""

import json
import shutil

import pytest
import tokenizers

from overfill_jax.data.tokenizers import (
    TextStream,
    check_vocabulary,
    load_tokenizer,
    special_tokens,
)
from overfill_jax.errors import InputError


def copy_with(folder, target, **files):
    """Copies a tokenizer folder with some of its JSON files replaced."""
    shutil.copytree(folder, target)
    for name, content in files.items():
        (target / f"{name}.json").write_text(json.dumps(content))
    return target


def test_round_trip(folder):
    tokenizer = load_tokenizer(folder)
    for text in ("the cat has 123 hats", "two\nlines\n\n and  spaces", "naïve 漢字 🙂"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_encode_adds_nothing(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("the cat")
    assert ids and not set(ids) & {tokenizer.bos_id, *tokenizer.stop_ids}
    assert tokenizer.encode("") == []


def test_spellings_of_special_tokens_become_their_ids(llama2):
    tokenizer = load_tokenizer(llama2)
    ids = tokenizer.encode("<s>the cat</s><s>two")
    assert ids == [1, *tokenizer.encode("the cat"), 2, 1, *tokenizer.encode("two")]
    assert tokenizer.decode(ids) == "the cat two"


def test_added_tokens_beyond_the_pieces(llama2, tmp_path):
    table = {
        "400": {"content": "<|im_end|>", "special": True},
        "402": {"content": "<think>", "special": False},
    }
    folder = copy_with(llama2, tmp_path / "added", tokenizer_config={"added_tokens_decoder": table})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 403  # the hole at 401 is no id, but needs a row
    ids = tokenizer.encode("<think>the cat<|im_end|>")
    assert (ids[0], ids[-1]) == (402, 400)
    assert tokenizer.decode([*ids, 401, 9999]) == "<think>the cat"
    assert tokenizer.stop_ids == (2, 400)


def test_added_tokens_of_older_folders(llama2, tmp_path):
    files = {
        "added_tokens": {"<|im_end|>": 400, "<|im_start|>": 401, "<think>": 402},
        "special_tokens_map": {"eos_token": {"content": "<|im_end|>"}},
        "tokenizer_config": {"additional_special_tokens": ["<|im_start|>"]},
    }
    tokenizer = load_tokenizer(copy_with(llama2, tmp_path / "older", **files))
    assert (tokenizer.vocab_size, tokenizer.stop_ids) == (403, (400, 2))
    ids = tokenizer.encode("<|im_start|><think>the cat<|im_end|>")
    assert (ids[:2], ids[-1]) == ([401, 402], 400)
    assert tokenizer.decode(ids) == "<think>the cat"
    # Newer folders keep the file as well, and transformers passes it over.
    files["tokenizer_config"] = {"added_tokens_decoder": {"400": {"content": "<|im_end|>"}}}
    tokenizer = load_tokenizer(copy_with(llama2, tmp_path / "newer", **files))
    assert tokenizer.vocab_size == 401
    with pytest.raises(
        InputError, match=r"added_tokens\.json: found '4' for '<x>', expected an id"
    ):
        load_tokenizer(copy_with(llama2, tmp_path / "bad", added_tokens={"<x>": "4"}))


def test_longer_special_token_wins(llama2, tmp_path):
    table = {"400": {"content": "<s>x", "special": True}}
    folder = copy_with(
        llama2, tmp_path / "longer", tokenizer_config={"added_tokens_decoder": table}
    )
    assert load_tokenizer(folder).encode("<s>x") == [400]


def test_stop_ids_come_from_every_file_with_the_own_eos_first(llama3, tmp_path):
    tokenizer = load_tokenizer(llama3)
    assert (tokenizer.bos_id, tokenizer.stop_ids, tokenizer.pad_id) == (0, (4,), 0)
    folder = copy_with(
        llama3,
        tmp_path / "more",
        tokenizer_config={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        generation_config={"eos_token_id": [1, 3]},
        config={"eos_token_id": 2},
    )
    # <|eot_id|> ends a turn although no file names it.
    assert load_tokenizer(folder).stop_ids == (1, 3, 2, 4)


def test_special_tokens_map_is_read_where_the_config_is_silent(llama3, tmp_path):
    folder = copy_with(
        llama3,
        tmp_path / "map",
        tokenizer_config={"eos_token": "<|eot_id|>"},
        special_tokens_map={"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<x>"},
    )
    assert special_tokens(folder) == {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def test_settings_saved_in_the_file_neither_cut_nor_pad(llama3, tmp_path):
    folder = copy_with(llama3, tmp_path / "cut")
    saved = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.enable_truncation(3)
    saved.enable_padding(length=50)
    saved.save(str(folder / "tokenizer.json"))
    text = "the cat has a red hat"
    assert load_tokenizer(folder).encode(text) == load_tokenizer(llama3).encode(text)


def test_a_file_is_as_good_as_its_folder(llama2, llama3):
    for file in (llama2 / "tokenizer.model", llama3 / "tokenizer.json"):
        by_file, by_folder = load_tokenizer(file), load_tokenizer(file.parent)
        assert by_file.stop_ids == by_folder.stop_ids
        assert by_file.encode("the cat") == by_folder.encode("the cat")


def test_vocabulary_must_fit_the_embedding(folder):
    tokenizer = load_tokenizer(folder)
    size = tokenizer.vocab_size
    check_vocabulary(tokenizer, size, "full")
    check_vocabulary(tokenizer, size + 64, "full")  # padded embeddings are common
    with pytest.raises(InputError, match=rf"^full: .* ids up to {size - 1}, .* only 300 rows$"):
        check_vocabulary(tokenizer, 300, "full")


def test_stream_equals_decoding_at_once(folder):
    tokenizer = load_tokenizer(folder)
    text = "the cat, naïve 漢字 🚀 two  hats\n"
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer)
    pieces = [stream.push([i]) for i in ids]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 5  # it does stream


def test_stream_releases_broken_bytes_only_at_the_end(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("🚀")[:-1]
    stream = TextStream(tokenizer)
    assert stream.push(ids) == ""
    assert "\ufffd" in stream.finish()
    assert stream.finish() == ""


def test_errors_name_the_file(tmp_path, llama3):
    with pytest.raises(InputError, match="nowhere: no such file"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no tokenizer, expected tokenizer\.json or"):
        load_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer.model"):
        (tmp_path / name).write_text("nonsense")
        with pytest.raises(InputError, match=name):
            load_tokenizer(tmp_path / name)
    other = tmp_path / "vocabulary.txt"
    other.touch()
    with pytest.raises(InputError, match=r"vocabulary\.txt: not a tokenizer"):
        load_tokenizer(other)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config", {"eos_token": "<none>"}, "eos_token '<none>' is not in the vocabul"),
        ("tokenizer_config", [], "found list, expected an object"),
        ("generation_config", {"eos_token_id": "2"}, "eos_token_id .* expected whole numbers"),
    ],
)
def test_errors_in_the_files_beside(llama3, tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        load_tokenizer(copy_with(llama3, tmp_path / "bad", **{name: content}))


def test_added_tokens_must_be_a_table(llama2, tmp_path):
    bad = {"added_tokens_decoder": {"x": {"content": "<x>"}}}
    with pytest.raises(InputError, match="added_tokens_decoder is not a table"):
        load_tokenizer(copy_with(llama2, tmp_path / "bad", tokenizer_config=bad))


def test_llama2_of_meta(shared_data):
    file = shared_data / "tokenizer" / "llama2.model"
    if not file.is_file():
        pytest.skip(f"no {file}")
    tokenizer = load_tokenizer(file)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.stop_ids) == (32000, 1, (2,))
    assert special_tokens(file) == {"bos_token": "<s>", "eos_token": "</s>"}
    ids = tokenizer.encode("<s>[INST] hi [/INST] yes </s>")
    assert ids[0] == 1 and ids[-1] == 2
    assert tokenizer.decode(ids) == "[INST] hi [/INST] yes "
