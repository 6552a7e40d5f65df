"""Owns how instruction rows become examples: reading, checking, splitting, and what is refused.

A row is a conversation that ends with an answer (see `conversations.py`). It may name a `family`,
by which results are grouped. A row that cannot be used is returned with its line and the reason,
and reported.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Int
from tqdm.auto import tqdm

from overfill_jax.data import chat, conversations, jsonl
from overfill_jax.data.sources import read_lines
from overfill_jax.data.tokenizers import Tokenizer
from overfill_jax.errors import InputError

TURNS = ("last", "every")
LINES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt and its answer, as token ids."""

    row: int  # line number in the file, from 1
    prompt: Int[np.ndarray, "P"]
    answer: Int[np.ndarray, "R"]
    family: str  # '' if the row names none
    reference: str  # the answer as the row has it


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row, or one answer of it, that cannot be used."""

    row: int
    reason: str


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Which columns and answers of a row count, and how many tokens an example may have."""

    prompt_column: str  # used where a row has no `messages`
    response_column: str
    turns: str  # 'last': the last answer of a conversation; 'every': one example for each answer
    max_prompt_tokens: int
    max_total_tokens: int

    def __post_init__(self):
        if self.turns not in TURNS:
            raise InputError(f"text.turns: found {self.turns!r}, expected one of {TURNS}")


def read_options(text: ml_collections.ConfigDict) -> ReadOptions:
    """Returns the options of a config's `text` section."""
    return ReadOptions(
        prompt_column=text.prompt_column,
        response_column=text.response_column,
        turns=text.turns,
        max_prompt_tokens=text.max_prompt_tokens,
        max_total_tokens=text.max_total_tokens,
    )


def load_examples(
    source: str | Path,
    split: str,
    tokenizer: Tokenizer,
    template: chat.ChatTemplate,
    options: ReadOptions,
) -> tuple[list[Example], list[Rejected]]:
    """Reads the rows of `source` and returns the examples in them and what was rejected.

    Args:
      source: a JSONL file, or a folder made by `tfds_rows.build`.
      split: which split of the folder; a file is one split by itself.

    Raises:
      InputError: `source` cannot be read or holds no usable row.
    """
    rejected: list[Rejected] = []
    examples = list(read_examples(source, split, tokenizer, template, options, rejected))
    report(source, len(examples), rejected)
    return examples, rejected


def read_examples(
    source: str | Path,
    split: str,
    tokenizer: Tokenizer,
    template: chat.ChatTemplate,
    options: ReadOptions,
    rejected: list[Rejected],
) -> Iterator[Example]:
    """Yields the examples of `source` one by one; what cannot be used goes to `rejected`.

    Tells at the end how many of them the tokenizer cannot spell.

    Raises:
      InputError: `source` cannot be read.
    """
    unknown: list[int] = []
    try:
        for row, value in read_rows(source, split, rejected):
            try:
                conversation = conversations.with_answer(
                    value, options.prompt_column, options.response_column
                )
                family = conversations.text(value, "family") if "family" in value else ""
            except InputError as error:
                rejected.append(Rejected(row, str(error)))
                continue
            for messages in _answered(conversation, options.turns):
                try:
                    prompt, answer = _encode(messages, tokenizer, template, options)
                except InputError as error:
                    rejected.append(Rejected(row, str(error)))
                    continue
                if tokenizer.unk_id in prompt or tokenizer.unk_id in answer:
                    unknown.append(row)
                yield Example(row, prompt, answer, family, messages[-1]["content"])
    finally:  # also where no more are wanted
        _tell_unknown(source, unknown)


def _tell_unknown(source: str | Path, rows: Sequence[int]) -> None:
    if rows:
        told = "%s: %d examples hold what the tokenizer cannot spell, as its unknown token (%s)"
        logging.warning(told, source, len(rows), count_lines(rows))


def read_rows(
    source: str | Path, split: str, rejected: list[Rejected]
) -> Iterator[tuple[int, dict]]:
    """Yields (line number, row) for every row of `source`, in the order of the lines.

    A line that is no JSON object goes to `rejected` instead; blank lines are no rows.

    Raises:
      InputError: `source` is missing or cannot be read.
    """
    for row, line in tqdm(read_lines(Path(source), split), str(source), unit=" rows", delay=1):
        try:
            value = jsonl.parse(line)
        except InputError as error:
            rejected.append(Rejected(row, str(error)))
        else:
            yield row, value


def _answered(messages: list[dict], turns: str) -> Iterator[list[dict]]:
    for end, message in enumerate(messages, 1):
        if end == len(messages) or (turns == "every" and message["role"] == "assistant"):
            yield messages[:end]


def _encode(
    messages: Sequence[dict],
    tokenizer: Tokenizer,
    template: chat.ChatTemplate,
    options: ReadOptions,
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "R"]]:
    prompt, answer = chat.encode_conversation(messages, tokenizer, template)
    if not prompt:
        raise InputError("empty prompt: the chat template writes nothing before the answer")
    if len(prompt) > options.max_prompt_tokens:
        raise InputError(f"prompt longer than {options.max_prompt_tokens} tokens")
    if len(prompt) + len(answer) > options.max_total_tokens:
        raise InputError(f"prompt and answer longer than {options.max_total_tokens} tokens")
    return np.asarray(prompt, np.int32), np.asarray(answer, np.int32)


def report(source: str | Path, examples: int, rejected: Sequence[Rejected]) -> None:
    """Logs how many examples a source holds, and what was rejected by which reason and line.

    Raises:
      InputError: there is no example.
    """
    lines = defaultdict(list)
    for one in rejected:
        lines[one.reason].append(one.row)
    most_first = sorted(lines, key=lambda reason: -len(lines[reason]))
    summary = "; ".join(f"{reason} ({count_lines(lines[reason])})" for reason in most_first)
    if not examples:
        raise InputError(f"{source}: no usable row: {summary or 'it is empty'}")
    logging.info("%s: %d examples", source, examples)
    if rejected:
        logging.warning("%s: rejected %d: %s", source, len(rejected), summary)


def count_lines(lines: Sequence[int]) -> str:
    """A few line numbers, and how many there are if not just one."""
    if len(lines) == 1:
        return f"line {lines[0]}"
    more = ", ..." if len(lines) > LINES_SHOWN else ""
    return f"{len(lines)} x, lines {', '.join(map(str, lines[:LINES_SHOWN]))}{more}"
