"""The stages generate and chat, from folders and files to answers."""

import io
import json
from pathlib import Path

import pytest

from configs.default import get_config
from overfill_jax.data.chat import encode_prompt, load_template
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.inference import chat, generate
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import Sampling
from overfill_jax.weights.folders import load_fingerprint, save_model
from overfill_jax.weights.origin import Origin
from tests.builders import random_model
from tests.data.conftest import LLAMA3, write_byte_bpe


def user(text):
    return {"role": "user", "content": text}


NEW = 20
ROWS = [
    {"prompt": "Hello world", "response": "known, but not shown to the model"},
    {"messages": [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "no"}]},
    {"system": "Be brief.", "prompt": "hats?"},
]
CONVERSATIONS = [
    [user("Hello world")],
    [user("a cat")],
    [{"role": "system", "content": "Be brief."}, user("hats?")],
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A full model and a decoder that share a tokenizer."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
    specials += ["<|end_header_id|>", "<|eot_id|>"]
    names = {"bos_token": specials[0], "eos_token": "<|eot_id|>", "chat_template": LLAMA3}
    tokenizer = write_byte_bpe(tmp_path_factory.mktemp("tokenizer"), specials, names)
    workdir = tmp_path_factory.mktemp("workdir")
    save_model(workdir / "full", random_model(0, vocab_size=400), tokenizer)
    narrow = random_model(1, vocab_size=400, hidden_size=14, intermediate_size=20)
    save_model(workdir / "decoder", narrow, tokenizer)
    return workdir


@pytest.fixture
def config(tmp_path):
    config = get_config()
    config.seed = 5
    config.generate.dtype = "float32"
    config.generate.max_new_tokens = NEW
    config.generate.temperature = 1.0
    config.generate.batch_size = 4
    config.generate.prompts = str(tmp_path / "prompts.jsonl")
    write_rows(config, ROWS)
    return config


def write_rows(config, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(config.generate.prompts).write_text("\n\n".join(lines))


def reference(workdir, writer, *conversations):
    """Answers by way of the class that the stages use, one conversation after the other."""
    tokenizer, template = load_tokenizer(workdir / "full"), load_template(workdir / "full")
    full = random_model(0, vocab_size=400)
    narrow = random_model(1, vocab_size=400, hidden_size=14, intermediate_size=20)
    pair = Generator(
        full, full if writer == "full" else narrow, "full", tokenizer.stop_ids, 0, tokenizer
    )
    prompts = [encode_prompt(messages, tokenizer, template) for messages in conversations]
    return pair.generate(prompts, Sampling(1.0, 0, 1.0, seed=5), NEW, 4)


@pytest.mark.parametrize("writer", ["decoder", "full"])
def test_answers_go_to_a_file(workdir, config, tmp_path, writer):
    config.generate.decoder = writer
    config.generate.output = str(tmp_path / "answers.jsonl")
    generate.run(config, workdir)
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").open()]
    expected = reference(workdir, writer, *CONVERSATIONS)
    assert [row["answer"] for row in found] == [answer.text for answer in expected]
    assert [row["ended"] for row in found] == [answer.reason for answer in expected]
    assert [row["messages"] for row in found] == CONVERSATIONS
    assert [row["row"] for row in found] == [1, 3, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "prompts.jsonl"]


@pytest.mark.long
def test_refreshed_answers_of_full_strictness_are_the_full_models(workdir, config, tmp_path):
    config.generate.output = str(tmp_path / "answers.jsonl")
    config.generate.temperature = 0.0
    answers = []
    for decoder, policy, interval in (
        ("full", "none", 0),
        ("decoder", "every", 4),
        ("decoder", "entropy", 6),
    ):
        config.generate.decoder, config.generate.refresh = decoder, policy
        config.generate.refresh_interval, config.generate.refresh_strictness = interval, 1.0
        generate.run(config, workdir)
        answers.append((tmp_path / "answers.jsonl").read_text())
    assert answers[1] == answers[2] == answers[0]


def test_answers_go_to_the_terminal(workdir, config, capsys):
    generate.run(config, workdir)
    expected = reference(workdir, "decoder", *CONVERSATIONS)
    shown = [
        f"\n> {c[-1]['content']}\n{a.text}\n" for c, a in zip(CONVERSATIONS, expected, strict=True)
    ]
    assert capsys.readouterr().out == "".join(shown)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 3: not JSON"),
        ({"question": "x"}, "line 3: no 'prompt'"),
        ({"prompt": 3}, "line 3: 'prompt' is int, expected text"),
        ({"messages": "hi"}, "line 3: 'messages' is not a list"),
        ({"messages": [{"role": "user"}]}, "line 3: message 1: no 'content'"),
        ({"messages": [user("\ud800")]}, "line 3: message 1: 'content' is not valid Unicode"),
        ({"prompt": "  "}, "line 3: 'prompt' is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "line 3: empty prompt"),
        ({"messages": []}, "line 3: empty prompt"),
        ({"messages": [{"role": "tool", "content": "x"}, user("y")]}, "line 3: .*unknown role"),
        ({"prompt": "x " * 120}, "line 3: .* tokens and 20 new ones .* limit is 128"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named_and_nothing_is_written(
    workdir, config, tmp_path, row, message
):
    write_rows(config, [ROWS[0], row])
    config.generate.output = str(tmp_path / "answers.jsonl")
    with pytest.raises(InputError, match=f"prompts.jsonl, {message}"):
        generate.run(config, workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_settings_that_cannot_work_are_named(workdir, config, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "file").write_text("")
    for key, value, message in (
        ("prompts", "", "generate.prompts: no file given"),
        ("prompts", str(tmp_path / "missing.jsonl"), "missing.jsonl"),
        ("prompts", str(tmp_path / "empty.jsonl"), "empty.jsonl: found no rows"),
        ("output", str(tmp_path / "file" / "answers.jsonl"), "answers.jsonl: cannot be written"),
        ("decoder", "missing", "missing: no such folder"),
        ("temperature", -1.0, "temperature is -1.0, expected"),
        ("batch_size", 0, "batch_size is 0, expected at least 1"),
        ("batch_size", -1, "batch_size is -1, expected at least 1"),
        ("first_token", "both", "first_token: found 'both'"),
        ("stop", ("",), "stop: found an empty string"),
        ("refresh", "sometimes", "refresh: found 'sometimes', expected none, every or entropy"),
    ):
        changed = get_config()
        changed.update(config)
        changed.generate[key] = value
        with pytest.raises(InputError, match=message):
            generate.run(changed, workdir)


@pytest.mark.parametrize("stage", [generate, chat])
def test_a_decoder_of_another_model_or_training_is_refused(workdir, config, stage):
    narrow = random_model(1, vocab_size=400, hidden_size=14, intermediate_size=20)
    full = load_fingerprint(workdir / "full")
    for origin, message in (
        (Origin("0123", "full"), f"trained behind another full model: .* 0123, found {full}"),
        (Origin(full, "decoder"), "trained with first_token 'decoder', found 'full'"),
    ):
        save_model(workdir / "stale", narrow, workdir / "full", origin)
        config.generate.decoder = "stale"
        with pytest.raises(InputError, match=f"stale: {message}"):
            stage.run(config, workdir)


def test_answers_do_not_go_to_a_folder_nor_in_the_place_of_the_prompts(workdir, config, tmp_path):
    config.generate.output = str(tmp_path)
    with pytest.raises(InputError, match="found a folder, expected a file to write to"):
        generate.run(config, workdir)
    prompts = tmp_path / "prompts.jsonl"
    before = prompts.read_text()
    config.generate.output = str(tmp_path / ".." / tmp_path.name / "prompts.jsonl")
    with pytest.raises(InputError, match="which holds the prompts; expected another file"):
        generate.run(config, workdir)
    assert prompts.read_text() == before


def talk(workdir, config, monkeypatch, capsys, *lines):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    chat.run(config, workdir)
    opening, *turns = capsys.readouterr().out.split("\n> ")
    assert opening == chat.HELP + "\n"
    return [turn.removesuffix("\n") for turn in turns]


@pytest.mark.slow
def test_a_chat_goes_on_from_the_whole_conversation(workdir, config, monkeypatch, capsys):
    config.generate.system = "Be brief."
    turns = talk(workdir, config, monkeypatch, capsys, "a cat", "", "hat?", "/reset", "a cat")
    system = {"role": "system", "content": "Be brief."}
    (first,) = reference(workdir, "decoder", [system, user("a cat")])
    said = {"role": "assistant", "content": first.text}
    (second,) = reference(workdir, "decoder", [system, user("a cat"), said, user("hat?")])
    assert first.text != second.text
    assert turns == [first.text, "", second.text, "", first.text, ""]


def test_exit_ends_a_chat(workdir, config, monkeypatch, capsys):
    assert talk(workdir, config, monkeypatch, capsys, "/exit", "a cat") == [""]


def test_a_message_that_is_too_long_is_taken_back(workdir, config, monkeypatch, capsys):
    long = "x " * 120
    turns = talk(workdir, config, monkeypatch, capsys, long, "a cat")
    assert "the model's limit is 128" in turns[0]
    assert turns[1] == reference(workdir, "decoder", [user("a cat")])[0].text


def test_a_message_that_is_no_unicode_is_taken_back(workdir, config, monkeypatch, capsys):
    typed = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n/exit\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    chat.run(config, workdir)
    assert "'content' is not valid Unicode; your message is taken back" in capsys.readouterr().out


def test_an_interrupted_answer_stands_as_far_as_it_was_said(workdir, config, monkeypatch, capsys):
    def interrupted(*_):
        yield "half"
        raise KeyboardInterrupt

    asked = []
    monkeypatch.setattr(Generator, "stream", interrupted)
    monkeypatch.setattr(
        chat.Assistant, "encode", lambda self, messages: asked.append(messages) or [1]
    )
    turns = talk(workdir, config, monkeypatch, capsys, "a", "b")
    assert turns == ["half", "half", ""]
    assert asked[1] == [user("a"), {"role": "assistant", "content": "half"}, user("b")]
