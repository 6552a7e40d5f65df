"""The task that systems are evaluated on: rows with reference answers, and what counts as right."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import ml_collections

from overfill_jax.data.chat import load_template
from overfill_jax.data.instructions import Example, Rejected, load_examples, read_options
from overfill_jax.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.evaluation.matching import find_match
from overfill_jax.evaluation.systems import FULL
from overfill_jax.two_stage import FIRST_TOKEN
from overfill_jax.weights.folders import load_config


@dataclasses.dataclass(frozen=True)
class Task:
    """What every system is asked, and how its answers are judged.

    Attributes:
      examples: prompts with their reference answers.
      tokenizer: of the full model, which all systems share.
      match: whether an answer equals its reference.
      first_token: who gives the first answer token of a pair, `full` or `decoder`.
      max_new_tokens: an answer is cut there.
      batch_size: rows at a time.
    """

    examples: Sequence[Example]
    tokenizer: Tokenizer
    match: Callable[[str, str], bool]
    first_token: Literal["full", "decoder"]
    max_new_tokens: int
    batch_size: int


def load_task(config: ml_collections.ConfigDict, workdir: Path) -> tuple[Task, list[Rejected]]:
    """Reads the rows of `evaluate.source`.

    Raises:
      InputError: the source is not given, cannot be read or holds no usable row; a number is
        out of range; or `evaluate.match` does not fit the answers.
    """
    c = config.evaluate
    if not c.source:
        raise InputError("evaluate.source: found nothing, expected a JSONL file or a TFDS folder")
    for key, least in (("batch_size", 1), ("max_new_tokens", 1), ("rows", 0), ("samples", 0)):
        if c[key] < least:
            raise InputError(f"evaluate.{key}: found {c[key]}, expected at least {least}")
    if c.first_token not in FIRST_TOKEN:
        raise InputError(
            f"evaluate.first_token: found {c.first_token!r}, expected one of {FIRST_TOKEN}"
        )
    match = find_match(c.match)
    folder = workdir / FULL.reader
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, load_config(folder).vocab_size, str(folder))
    examples, rejected = load_examples(
        c.source, c.split, tokenizer, load_template(folder), read_options(config.text)
    )
    examples = examples[: c.rows or None]
    for example in examples:
        if not match(example.reference, example.reference):
            raise InputError(
                f"{c.source}:{example.row}: the answer holds no number, expected one because "
                f"evaluate.match is {c.match!r}"
            )
    task = Task(examples, tokenizer, match, c.first_token, c.max_new_tokens, c.batch_size)
    return task, rejected
