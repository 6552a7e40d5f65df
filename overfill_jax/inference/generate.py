"""The generate stage: full/, decoder/ and a file of prompts into answers, as JSONL or on screen."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax import files
from overfill_jax.data import conversations, jsonl
from overfill_jax.errors import InputError
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.settings import Assistant, load_assistant


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Answers every prompt of `config.generate.prompts`.

    Raises:
      InputError: there are no prompts, or the answers would take their place.
    """
    c = config.generate
    if not c.prompts:
        raise InputError("generate.prompts: no file given, expected JSONL")
    if c.output and Path(c.output).resolve() == Path(c.prompts).resolve():
        raise InputError(
            f"generate.output: found {c.output}, which holds the prompts; expected another file"
        )
    asked = read_conversations(Path(c.prompts), config.text.prompt_column)
    assistant = load_assistant(config, workdir, c.batch_size)
    if not c.output:
        answers = answer_all(assistant, asked, c)
        for messages, answer in zip(asked.values(), answers, strict=True):
            print(f"\n> {messages[-1]['content']}\n{answer.text}")
        return
    # Opened first: a target that cannot be written shows before the work, not after it.
    with files.replace_file(Path(c.output)) as temporary:
        answers = answer_all(assistant, asked, c)
        temporary.write_text(to_jsonl(asked, answers), encoding="utf-8")
    logging.info("wrote %s", c.output)


def read_conversations(source: Path, prompt_column: str) -> dict[int, list[dict]]:
    """The conversations to go on with, by line number; an answer that a row brings is left out.

    Raises:
      InputError: names the file, and the line that is not a row with `messages` or a prompt.
    """
    found = {}
    for row, line in jsonl.read_lines(source):
        try:
            found[row] = conversations.without_answer(jsonl.parse(line), prompt_column)
        except InputError as error:
            raise InputError(f"{source}, line {row}: {error}") from error
    if not found:
        raise InputError(f"{source}: found no rows, expected one prompt a line")
    return found


def answer_all(
    assistant: Assistant, asked: dict[int, list[dict]], c: ml_collections.ConfigDict
) -> list[Answer]:
    """One answer to each conversation; every prompt is checked before the first is read."""
    prompts = []
    for row, messages in asked.items():
        name = f"{c.prompts}, line {row}"
        try:
            prompts.append(assistant.encode(messages))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        assistant.generator.check_prompt(prompts[-1], c.max_new_tokens, name)
    start = time.monotonic()
    answers = assistant.generator.generate(
        prompts, assistant.sampling, c.max_new_tokens, c.batch_size, c.stop, show_progress=True
    )
    tokens, seconds = sum(len(a.tokens) for a in answers), time.monotonic() - start
    unfinished = sum(a.reason == "length" for a in answers)
    logging.info(
        "%d answers, %d tokens in %.1f s (%.0f a second, compilation included); "
        "%d cut at max_new_tokens = %d",
        len(answers), tokens, seconds, tokens / seconds, unfinished, c.max_new_tokens,
    )  # fmt: skip
    tally = assistant.generator.tally
    if tally.drafted:
        share = 100 * tally.kept / tally.drafted
        logging.info("%d tokens drafted, %.1f %% of them kept", tally.drafted, share)
    return answers


def to_jsonl(asked: dict[int, list[dict]], answers: Sequence[Answer]) -> str:
    """One line an answer: the prompt's line number, the conversation, the answer, why it ended."""
    lines = []
    for (row, messages), answer in zip(asked.items(), answers, strict=True):
        value = {"row": row, "messages": messages, "answer": answer.text, "ended": answer.reason}
        lines.append(json.dumps(value, ensure_ascii=False) + "\n")
    return "".join(lines)
