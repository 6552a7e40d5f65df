"""Owns how a conversation becomes a prompt and an answer: chat templates, and the exact split.

A template is code that came with a model, so it runs in a jinja2 sandbox, with the names that
transformers gives it; the text is equal to that of `apply_chat_template`.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

from overfill_jax.data.tokenizers import Tokenizer, optional_json, special_tokens
from overfill_jax.errors import InputError

# For models that bring no template. The header ends in a line break, which no tokenizer merges
# with the answer, because the answer is trimmed.
PLAIN = """{{ bos_token }}
{%- for message in messages %}
{{- '### ' + message['role'] | capitalize + ':\\n' + message['content'] | trim }}
{{- eos_token if message['role'] == 'assistant' }}
{{- '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Assistant:\\n' }}
{%- endif %}"""


class ChatTemplate:
    """A compiled chat template, with the spellings of its tokenizer's special tokens.

    Attributes:
      source: what was compiled.
    """

    def __init__(self, source: str, spellings: Mapping[str, str], where: str):
        """Compiles `source`; errors, now and in `render`, begin with `where`."""
        self.source = source
        self._where = where
        self._spellings = dict(spellings)
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{where}: the chat template is not valid ({error})") from error

    def render(self, messages: Sequence[Mapping], add_generation_prompt: bool) -> str:
        """Returns the text of `messages`, with the header of an answer to come if asked for.

        Raises:
          InputError: the template refuses the messages, or does what the sandbox forbids.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._spellings,
            )
        except Exception as error:  # a template is foreign code and can fail in any way
            raise InputError(f"{self._where}: the chat template failed ({error})") from error


def load_template(path: Path) -> ChatTemplate:
    """Loads the template of a model folder (or beside a tokenizer file), PLAIN if it has none.

    Raises:
      InputError: there is no tokenizer, or the template is not valid.
    """
    spellings = special_tokens(path)
    folder = path if path.is_dir() else path.parent
    own_file = folder / "chat_template.jinja"
    config_file = folder / "tokenizer_config.json"
    if own_file.is_file():  # transformers prefers it as well
        source = own_file.read_text(encoding="utf-8", errors="replace")
        return ChatTemplate(source, spellings, str(own_file))
    template = optional_json(config_file).get("chat_template")
    if template is None:
        return ChatTemplate(PLAIN, spellings, "the plain template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict)]
        template = {entry.get("name"): entry.get("template") for entry in named}.get("default")
    if not isinstance(template, str):
        raise InputError(f"{config_file}: chat_template has no text named 'default'")
    return ChatTemplate(template, spellings, str(config_file))


def encode_prompt(
    messages: Sequence[Mapping], tokenizer: Tokenizer, template: ChatTemplate
) -> list[int]:
    """Returns the ids of everything up to and with the header of the answer to come."""
    return tokenizer.encode(template.render(messages, add_generation_prompt=True))


def encode_conversation(
    messages: Sequence[Mapping], tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[int], list[int]]:
    """Splits a conversation whose last message is the answer into prompt ids and answer ids.

    The prompt is what `encode_prompt` gives at generation, to the token, so training and use never
    see different prompts. The answer ends with a stop token, even where the template forgets it.

    Raises:
      InputError: the template fails, or writes the answer anywhere but behind the prompt.
    """
    prompt_text = template.render(messages[:-1], add_generation_prompt=True)
    text = template.render(messages, add_generation_prompt=False)
    if not text.startswith(prompt_text):
        raise InputError("the chat template does not put the answer behind the prompt")
    prompt = tokenizer.encode(prompt_text)
    answer = encode_behind(prompt, prompt_text, text[len(prompt_text) :], tokenizer)
    return prompt, _end_with_stop(answer, tokenizer)


def encode_behind(
    prompt: list[int], prompt_text: str, text: str, tokenizer: Tokenizer
) -> list[int]:
    """The ids of a text behind a prompt, whose own ids stay as they are."""
    whole = tokenizer.encode(prompt_text + text)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    return _encode_inside(text, tokenizer)  # a token would reach over the split


def _encode_inside(text: str, tokenizer: Tokenizer) -> list[int]:
    # Some tokenizers put a space before what they take for the beginning of a text. A line break
    # in front takes that space away, as long as it does not merge with the text.
    line_break, ids = tokenizer.encode("\n"), tokenizer.encode("\n" + text)
    if ids[: len(line_break)] == line_break:
        return ids[len(line_break) :]
    return tokenizer.encode(text)


def _end_with_stop(answer: list[int], tokenizer: Tokenizer) -> list[int]:
    stops = [i for i, token in enumerate(answer) if token in tokenizer.stop_ids]
    # Templates such as ChatML write a line break behind the stop token, which no answer needs.
    if stops and not tokenizer.decode(answer[stops[-1] + 1 :]).strip():
        return answer[: stops[-1] + 1]
    return answer + list(tokenizer.stop_ids[:1])


@functools.cache
def _now() -> datetime.datetime:
    # One moment for the whole process: a date in the prompt must not change between two renders.
    return datetime.datetime.now()


def _strftime_now(pattern: str) -> str:
    return _now().strftime(pattern)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # jinja2's own filter escapes <, > and & for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}`: marks the answers for transformers, and here only renders its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@functools.cache
def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment
