"""A benchmark made ready for the models of a workdir: its questions as tokens, and the settings."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ml_collections

from overfill_jax.data.chat import ChatTemplate, encode_behind, load_template
from overfill_jax.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.evaluation.marks import judge_of
from overfill_jax.evaluation.systems import (
    FULL,
    SYSTEMS,
    System,
    choose_fitting,
    find_misfit,
    find_systems,
    missing_folders,
)
from overfill_jax.evaluation.tasks.question import Benchmark, Question
from overfill_jax.evaluation.tasks.registry import find_benchmark
from overfill_jax.inference.generation import check_prompt
from overfill_jax.two_stage import FIRST_TOKEN
from overfill_jax.weights.folders import check_dtype, load_config, load_fingerprint


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question as the models read it.

    Attributes:
      text: the prompt with everything that the chat template adds.
      tokens: the same.
      choices: the tokens of the question's choices, behind the prompt.
    """

    question: Question
    text: str
    tokens: list[int]
    choices: list[list[int]]


@dataclasses.dataclass(frozen=True)
class Exam:
    """What every system is asked.

    Attributes:
      asked: the questions in the order of the file.
      tokenizer: of the full model, which all systems share.
      source: the file of the questions.
      limit: how many of its questions are asked; 0 for all.
      shots: examples before each question.
      max_new_tokens: an answer is cut there.
      first_token: who gives the first answer token of a pair.
      batch_size: answers that are written at once.
      dtype: of the computation.
    """

    benchmark: Benchmark
    asked: Sequence[Asked]
    tokenizer: Tokenizer
    source: str
    limit: int
    shots: int
    max_new_tokens: int
    first_token: Literal["full", "decoder"]
    batch_size: int
    dtype: str

    def settings(self, system: System, workdir: Path) -> dict[str, Any]:
        """What an answer of a system depends on beside its prompt."""
        return {
            "task": self.benchmark.name,
            "shots": self.shots,
            "max_new_tokens": self.max_new_tokens,
            "stop": list(self.benchmark.stop),
            "first_token": self.first_token,
            "dtype": self.dtype,
            "reader": load_fingerprint(workdir / system.reader),
            "writer": load_fingerprint(workdir / system.writer),
        }

    def described(self, system: System, workdir: Path) -> dict[str, Any]:
        """What a score of a system depends on: the same, the questions, and who judges."""
        found = {"source": self.source, "limit": self.limit, "judge": judge_of(self.benchmark)}
        if self.benchmark.signature is not None:
            found["signature"] = self.benchmark.signature()
        return self.settings(system, workdir) | found


def load_exam(config: ml_collections.ConfigDict, workdir: Path) -> Exam:
    """Reads the questions of `score.source`.

    Raises:
      InputError: the task is unknown; the source is missing, malformed or empty; a setting is out
        of range.
    """
    c = config.score
    benchmark = find_benchmark(c.task)
    if not c.source:
        raise InputError("score.source: found nothing, expected the task's JSONL file")
    for key, least in (("shots", -1), ("limit", 0), ("max_new_tokens", 0), ("batch_size", 1)):
        if c[key] < least:
            raise InputError(f"score.{key}: found {c[key]}, expected at least {least}")
    if c.first_token not in FIRST_TOKEN:
        raise InputError(
            f"score.first_token: found {c.first_token!r}, expected one of {FIRST_TOKEN}"
        )
    check_dtype("score.dtype", c.dtype)
    folder = workdir / FULL.reader
    tokenizer, template = load_tokenizer(folder), load_template(folder)
    check_vocabulary(tokenizer, load_config(folder).vocab_size, str(folder))
    shots = benchmark.shots if c.shots == -1 else c.shots
    questions = benchmark.read(Path(c.source), shots)[: c.limit or None]
    asked = [encode_question(question, tokenizer, template, c.source) for question in questions]
    return Exam(
        benchmark=benchmark,
        asked=asked,
        tokenizer=tokenizer,
        source=c.source,
        limit=c.limit,
        shots=shots,
        max_new_tokens=c.max_new_tokens or benchmark.max_new_tokens,
        first_token=c.first_token,
        batch_size=c.batch_size,
        dtype=c.dtype,
    )


def encode_question(
    question: Question, tokenizer: Tokenizer, template: ChatTemplate, source: str
) -> Asked:
    """A question as tokens; the prompt's are the same whatever choice stands behind it.

    Raises:
      InputError: the template refuses it, or a choice adds no token; names the source.
    """
    text = template.render(question.messages, add_generation_prompt=True) + question.prefix
    tokens = tokenizer.encode(text)
    choices = [encode_behind(tokens, text, choice, tokenizer) for choice in question.choices]
    for choice, added in zip(question.choices, choices, strict=True):
        if not added:
            raise InputError(
                f"score.source: {source}, question {question.id}: found the choice {choice!r:.60}, "
                "which adds no token to the prompt; expected text"
            )
    return Asked(question, text, tokens, choices)


def choose_systems(names: Sequence[str], workdir: Path, first_token: str) -> list[System]:
    """The systems of these names, or all that the workdir has and that belong to its models.

    Raises:
      InputError: there is no full model; a name is unknown, or its system is not there or belongs
        to other models.
    """
    present, _ = find_systems(workdir)
    known = {system.name: system for system in SYSTEMS}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InputError(
                f"score.systems: unknown system {name!r}{hint} Expected some of {', '.join(known)}"
            )
        if known[name] not in present:
            lacking = ", ".join(missing_folders(known[name], workdir))
            raise InputError(f"{workdir}: found no {lacking}, expected it for system {name!r}")
    if not names:
        return choose_fitting(present, workdir, first_token)
    chosen = [known[name] for name in dict.fromkeys(names)]
    for system in chosen:
        if reason := find_misfit(system, workdir, first_token):
            raise InputError(f"score.systems: {system.name} does not fit; {reason}")
    return chosen


def check_prompts(exam: Exam, systems: Sequence[System], source: str, workdir: Path) -> None:
    """Refuses a prompt that one of the systems cannot answer, before any of them is loaded.

    Raises:
      InputError: names the source, the question and the system's folder.
    """
    for folder in dict.fromkeys(folder for system in systems for folder in system.folders):
        shape = load_config(workdir / folder)
        for asked in exam.asked:
            name = f"{source}, question {asked.question.id}, for {folder}"
            room = max(map(len, asked.choices), default=exam.max_new_tokens)
            check_prompt(asked.tokens, room, shape, name)
