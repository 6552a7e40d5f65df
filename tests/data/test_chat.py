"""Chat templates: equal to transformers, sandboxed, and split exactly at the answer's header."""

import json
import re
import shutil

import pytest

from overfill_jax.data import chat
from overfill_jax.data.tokenizers import load_tokenizer, special_tokens
from overfill_jax.errors import InputError

TALK = [
    {"role": "user", "content": " the cat\n has 123 <b> "},
    {"role": "assistant", "content": "a red hat"},
    {"role": "user", "content": "naïve 漢字?"},
    {"role": "assistant", "content": "two hats"},
]
SYSTEM = {"role": "system", "content": "be nice", "notes": [{"a": "<é>"}]}


class Letters:
    """A tokenizer of single letters, except that it merges what `merges` names; id 0 stops."""

    vocab_size, bos_id, pad_id, unk_id, stop_ids = 0x110000, None, 0, None, (0,)

    def __init__(self, *merges: str):
        self._pieces = re.compile("|".join([*map(re.escape, merges), "."]), re.DOTALL)

    def encode(self, text):
        return [sum(map(ord, piece)) for piece in self._pieces.findall(text)]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)


def template_of(source):
    return chat.ChatTemplate(source, {}, "here")


def pair(folder):
    return load_tokenizer(folder), chat.load_template(folder)


@pytest.mark.parametrize("with_system", [False, True])
def test_equals_transformers(folder, with_system):
    transformers = pytest.importorskip("transformers")
    tokenizer, template = pair(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [SYSTEM, *TALK] if with_system else TALK
    for part, header in ((messages, False), (messages[:-1], True)):
        expected = theirs.apply_chat_template(
            part, tokenize=False, add_generation_prompt=header, **special_tokens(folder)
        )
        assert template.render(part, header) == expected
        if (folder / "tokenizer.json").exists():  # they put a prefix elsewhere in sentencepiece
            assert (
                tokenizer.encode(expected) == theirs(expected, add_special_tokens=False).input_ids
            )


def test_split_is_exact(folder):
    tokenizer, template = pair(folder)
    prompt, answer = chat.encode_conversation(TALK, tokenizer, template)
    assert prompt == chat.encode_prompt(TALK[:-1], tokenizer, template)
    whole = tokenizer.encode(template.render(TALK, False))
    assert (prompt + answer) == whole[: len(prompt) + len(answer)]
    assert answer[-1] == tokenizer.stop_ids[0]
    assert tokenizer.decode(answer).strip() == "two hats"


def test_headers_are_in_the_prompt(llama3, chatml, llama2):
    for folder, end in (
        (llama3, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        (chatml, "<|im_start|>assistant\n"),
        (llama2, "[/INST]"),
    ):
        tokenizer, template = pair(folder)
        prompt, _ = chat.encode_conversation(TALK[:2], tokenizer, template)
        assert prompt == tokenizer.encode(template.render(TALK[:1], True))
        assert template.render(TALK[:1], True).endswith(end)


def test_line_break_behind_the_stop_token_is_cut(chatml):
    tokenizer, template = pair(chatml)
    assert template.render(TALK, False).endswith("<|im_end|>\n")
    _, answer = chat.encode_conversation(TALK, tokenizer, template)
    assert answer == [*tokenizer.encode("two hats"), *tokenizer.encode("<|im_end|>")]


def test_missing_stop_token_is_added(chatml):
    tokenizer = load_tokenizer(chatml)
    template = template_of("{% for m in messages %}{{ m.content }}|{% endfor %}")
    messages = [{"content": "hi"}, {"content": "a <|im_end|> inside"}]
    _, answer = chat.encode_conversation(messages, tokenizer, template)
    assert answer == [*tokenizer.encode("a <|im_end|> inside|"), *tokenizer.stop_ids[:1]]


@pytest.mark.parametrize("end", ["|", "|\n"])
def test_a_stop_token_that_is_an_ordinary_piece_ends_the_answer_once(end):
    class Spelled(Letters):
        stop_ids = (ord("|"),)

    template = template_of("{% for m in messages %}{{ m.content }}" + end + "{% endfor %}")
    messages = [{"content": "ab"}, {"content": "cd"}]
    _, answer = chat.encode_conversation(messages, Spelled(), template)
    assert answer == Letters().encode("cd|")


def test_token_over_the_split_is_divided():
    template = template_of("{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = [{"content": "ab"}, {"content": "cd"}]
    merging = Letters("bc")
    prompt, answer = chat.encode_conversation(messages, merging, template)
    assert prompt == merging.encode("ab")
    assert answer == [*merging.encode("cd"), 0]


def test_divided_answer_gets_no_space_of_its_own(llama2):
    tokenizer = load_tokenizer(llama2)
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{{ ' ' if add_generation_prompt }}"
    template = template_of(source)
    messages = [{"content": "the dog:"}, {"content": " cat"}]
    prompt, answer = chat.encode_conversation(messages, tokenizer, template)
    assert tokenizer.encode("the dog: cat")[: len(prompt)] != prompt  # a token does cross it
    assert tokenizer.decode(prompt + answer) == "the dog: cat"


def test_answer_must_stand_behind_the_prompt(chatml):
    tokenizer = load_tokenizer(chatml)
    template = template_of("{% for m in messages | reverse %}{{ m.content }}{% endfor %}")
    with pytest.raises(InputError, match="does not put the answer behind the prompt"):
        chat.encode_conversation([{"content": "a"}, {"content": "b"}], tokenizer, template)


def test_plain_template(llama2, tmp_path):
    shutil.copy(llama2 / "tokenizer.model", tmp_path)
    tokenizer, template = pair(tmp_path)
    assert template.render(TALK[:1], True) == (
        "<s>### User:\nthe cat\n has 123 <b>\n\n### Assistant:\n"
    )
    prompt, answer = chat.encode_conversation(TALK, tokenizer, template)
    assert prompt[0] == tokenizer.bos_id
    assert prompt.count(tokenizer.stop_ids[0]) == 1  # that of the first answer
    assert (tokenizer.decode(answer), answer[-1]) == ("two hats", tokenizer.stop_ids[0])
    assert (tmp_path / "tokenizer.model").exists()
    by_file = chat.load_template(tmp_path / "tokenizer.model")
    assert by_file.render(TALK, False) == template.render(TALK, False)


def test_template_file_goes_before_the_config(chatml, tmp_path):
    folder = shutil.copytree(chatml, tmp_path / "both")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    assert chat.load_template(folder).render([{"content": "x"}], True) == "x<|im_end|>"


def test_generation_block_keeps_its_variables_to_itself():
    source = "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}"
    assert template_of(source).render([], False) == "21"


def test_date_is_the_same_for_the_whole_process():
    template = template_of("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}")
    assert template.render([], False) == template.render([], True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['datetime'] }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ range(10 ** 9) | list }}",
    ],
)
def test_sandbox(source):
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(InputError, match=r"^here: the chat template failed"):
        template_of(source).render(messages, False)
    assert messages == [{"role": "user", "content": "x"}]


def test_errors_name_the_file(llama3, tmp_path):
    with pytest.raises(InputError, match=r"tokenizer_config\.json: .* failed \(unknown role x\)"):
        chat.load_template(llama3).render([{"role": "x", "content": ""}], True)
    with pytest.raises(InputError, match="here: the chat template is not valid"):
        template_of("{% if %}")
    folder = shutil.copytree(llama3, tmp_path / "named")
    templates = [{"name": "tools", "template": ""}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: .* no text named 'default'"):
        chat.load_template(folder)
