"""Tiny tokenizers of the three kinds in use, trained on the spot, each with its chat template."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

TEXT = [
    "the cat has a red hat and the dog has two hats",
    "Hello world, how are you? 123 + 4567 = 4690",
    "### User: what is it? ### Assistant: it is a naïve 漢字 \U0001f642",
] * 20

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if loop.first and message.role == 'system' %}
        {{- 'Today: ' + strftime_now('%d %b %Y') + '\n' }}
    {%- endif %}
    {{- message['content'] | trim + '<|eot_id|>' }}
    {%- if message.notes is defined %}{{ message.notes | tojson }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}
{% generation %}{{ message['content'] }}{% endgeneration %}
{%- else %}
{{ message['content'] }}
{%- endif %}
{{ '<|im_end|>' + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA2 = """{% for message in messages %}
{%- if message['role'] == 'user' -%}
{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] | trim + ' ' + eos_token }}
{%- endif %}
{%- endfor %}"""


def write_byte_bpe(folder: Path, specials: list[str], config: dict) -> Path:
    """Writes a byte-level BPE as Llama 3 and Qwen use it: tokenizer.json and its config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(TEXT, trainer)
    model.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_pieces(folder: Path, config: dict, **training) -> Path:
    """Writes a sentencepiece BPE as Llama 2 uses it: tokenizer.model and its config."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT),
            model_writer=file,
            model_type="bpe",
            vocab_size=400,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
            **training,
        )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def llama3(tmp_path_factory) -> Path:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
    specials += ["<|end_header_id|>", "<|eot_id|>"]
    config = {"bos_token": specials[0], "eos_token": "<|eot_id|>", "chat_template": LLAMA3}
    return write_byte_bpe(tmp_path_factory.mktemp("llama3"), specials, config)


@pytest.fixture(scope="session")
def chatml(tmp_path_factory) -> Path:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    templates = [
        {"name": "tools", "template": "{{ raise_exception('not this one') }}"},
        {"name": "default", "template": CHATML},
    ]
    eos = {"__type": "AddedToken", "content": "<|im_end|>"}  # the longer of the two spellings
    config = {"bos_token": None, "eos_token": eos, "chat_template": templates}
    return write_byte_bpe(tmp_path_factory.mktemp("chatml"), specials, config)


@pytest.fixture(scope="session")
def llama2(tmp_path_factory) -> Path:
    return write_pieces(tmp_path_factory.mktemp("llama2"), {"chat_template": LLAMA2})


@pytest.fixture(params=["llama3", "chatml", "llama2"])
def folder(request) -> Path:
    """Each of the three in turn."""
    return request.getfixturevalue(request.param)
