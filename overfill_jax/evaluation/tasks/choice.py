"""Questions with choices: ARC-challenge, MMLU and MMLU-Redux, answered by a letter or ranked.

The harness's arc_challenge_chat, mmlu_llama and mmlu_redux_*_generative, and of its tasks that rank
the choices by their likelihoods, arc_challenge and mmlu (Clark et al., arXiv 1803.05457; Hendrycks
et al., 2009.03300; Gema et al., 2406.04127). Shots are the first rows of the file of development
questions beside the given one, which has `dev` in its name for `test`.
"""

import collections
import dataclasses
import functools
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Num

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.question import Benchmark, Question, ask, turn
from overfill_jax.evaluation.tasks.rows import read_rows

LETTERS = "ABCDE"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one benchmark puts a question.

    Attributes:
      fields: what its rows must have.
      sizes: how many choices a row may have.
      system: the system message, with `{subject}`; '' for none.
      head, lines, tail: before the choices, between them, and behind them.
      prefix: how the answer is made to begin.
      told: the answer of a shot, with `{letter}` or `{text}`.
      ranked: what is ranked, the choices' letters or, unlisted in the question, their texts; ''
        where an answer is written.
    """

    fields: Mapping[str, type]
    sizes: tuple[int, ...]
    system: str
    head: str
    lines: str
    tail: str
    prefix: str
    told: str
    ranked: Literal["", "letters", "texts"] = ""


_FIELDS = {"question": str, "choices": list, "answer": int}
_FIELDS_OF_SUBJECTS = {"subject": str, **_FIELDS}
_LLAMA = (
    "Given the following question and four candidate answers (A, B, C and D), choose the best "
    "answer.{0}Question: {{question}}",
    '{0}Your response should end with "The best answer is [the_answer_letter]" where the '
    "[the_answer_letter] is one of A, B, C or D.",
)
# The harness's file quotes this prompt so that its line breaks stay a backslash and an n: models
# have been compared on that.
_BACKSLASH_N = "\\n"
ARC_WORDING = Wording(
    fields=_FIELDS,
    sizes=(3, 4, 5),
    system="",
    head=_LLAMA[0].format(_BACKSLASH_N),
    lines=_BACKSLASH_N,
    tail=_LLAMA[1].format(_BACKSLASH_N),
    prefix="The best answer is",
    told="The best answer is {letter}",
)
MMLU_WORDING = Wording(
    fields=_FIELDS_OF_SUBJECTS,
    sizes=(4,),
    system="",
    head=_LLAMA[0].format("\n"),
    lines="\n",
    tail=_LLAMA[1].format("\n"),
    prefix="The best answer is",
    told="The best answer is {letter}.",
)
REDUX_WORDING = Wording(
    fields=_FIELDS_OF_SUBJECTS,
    sizes=(4,),
    system="The following are multiple choice questions (with answers) about {subject}.\n\n",
    head="{question}",
    lines="\n",
    tail="\nPlease respond with the correct letter (A, B, C or D) without any additional comments, "
    "only the correct letter:",
    prefix="",
    told="{letter}",
)
ARC_RANKED_WORDING = Wording(
    fields=_FIELDS,
    sizes=(3, 4, 5),
    system="",
    head="Question: {question}",
    lines="",
    tail="\nAnswer:",
    prefix="",
    told="{text}",
    ranked="texts",
)
MMLU_RANKED_WORDING = Wording(
    fields=_FIELDS_OF_SUBJECTS,
    sizes=(4,),
    system=REDUX_WORDING.system,
    head="{question}",
    lines="\n",
    tail="\nAnswer:",
    prefix="",
    told="{letter}",
    ranked="letters",
)


def read(path: Path, shots: int, wording: Wording) -> list[Question]:
    """Rows with `question`, `choices` and `answer`, the index of the right one; by `subject`.

    A question's shots are of its subject, where there are any. Rows with an `error_type` other
    than ok, of MMLU-Redux, are left out.

    Raises:
      InputError: a malformed row; no file of development questions, or too few of them.
    """
    rows = _read_choices(path, wording)
    examples = _examples(path, wording) if shots else {}
    questions = []
    for number, row in rows:
        subject = row.get("subject", "")
        messages = [m for turns in examples.get(subject, ())[:shots] for m in turns]
        if len(messages) < 2 * shots:
            raise InputError(
                f"{_development(path)}: found {len(messages) // 2} rows of subject {subject!r}, "
                f"expected {shots} for score.shots"
            )
        messages.append(ask(_posed(row, wording)))
        if wording.system:
            plain = re.sub("[-_]", " ", subject)
            messages.insert(0, {"role": "system", "content": wording.system.format(subject=plain)})
        choices = _choices(row, wording)
        gold = row["answer"] if choices else _letter(row)
        questions.append(Question(f"{number}", messages, gold, wording.prefix, subject, choices))
    return questions


def _development(path: Path) -> Path:
    return path.with_name(path.name.replace("test", "dev"))


def _examples(path: Path, wording: Wording) -> dict[str, list[list[dict[str, str]]]]:
    """The shots of every subject, each two turns."""
    development = _development(path)
    if development == path:
        raise InputError(f"{path}: found no 'test' in its name, expected it for score.shots")
    found = collections.defaultdict(list)
    for _, row in _read_choices(development, wording):
        told = wording.told.format(letter=_letter(row), text=row["choices"][row["answer"]])
        found[row.get("subject", "")].append(turn(_posed(row, wording), told))
    return found


def verdict(question: Question, answer: str) -> dict[str, float]:
    """Whether nothing but the letter stands there, up to case and punctuation."""
    found = answer.strip().lower().translate(_NO_PUNCTUATION)
    return {"exact_match": float(found == question.gold.lower())}


def verdict_redux(question: Question, answer: str) -> dict[str, float]:
    """Whether the first capital A, B, C or D of the answer is the letter."""
    found = re.search("[ABCD]", answer)
    return {"exact_match": float(found is not None and found.group() == question.gold)}


def verdict_ranked(question: Question, log_likelihoods: Sequence[float]) -> dict[str, float]:
    """Whether the likeliest choice is the right one; of equals the first is."""
    return {"acc": float(_likeliest(np.array(log_likelihoods)) == question.gold)}


def verdict_ranked_texts(question: Question, log_likelihoods: Sequence[float]) -> dict[str, float]:
    """The same, and with the log-likelihoods divided by the texts' lengths in characters."""
    lengths = [len(choice) for choice in question.choices]
    each = np.divide(log_likelihoods, lengths)
    return verdict_ranked(question, log_likelihoods) | {
        "acc_norm": float(_likeliest(each) == question.gold)
    }


def _likeliest(log_likelihoods: Num[np.ndarray, "K"]) -> int | None:
    """None where one of them is no number: the model is broken, and argmax would choose it."""
    return None if np.isnan(log_likelihoods).any() else int(np.argmax(log_likelihoods))


def _choices(row: Mapping, wording: Wording) -> tuple[str, ...]:
    """As answers that begin right behind the chat template's header."""
    found = {"": (), "letters": LETTERS[: len(row["choices"])], "texts": row["choices"]}
    return tuple(found[wording.ranked])


def _read_choices(path: Path, wording: Wording) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, row in read_rows(path, wording.fields):
        choices = row["choices"]
        if len(choices) not in wording.sizes or not all(type(c) is str for c in choices):
            sizes = ", ".join(map(str, wording.sizes))
            raise InputError(
                f"{path}:{number}: found choices {choices!r:.80}, expected {sizes} texts"
            )
        if not 0 <= row["answer"] < len(choices):
            raise InputError(
                f"{path}:{number}: found answer {row['answer']}, expected the index of one of "
                f"{len(choices)} choices"
            )
        if row.get("error_type", "ok") == "ok":
            found.append((number, row))
    if not found:
        raise InputError(f"{path}: found no row whose error_type is ok, expected at least one")
    return found


def _posed(row: Mapping, wording: Wording) -> str:
    """The question with its first four choices: a fifth is not shown, as in the harness."""
    shown = zip("ABCD", row["choices"] if wording.lines else (), strict=False)
    choices = "".join(f"{wording.lines}{letter}. {choice}" for letter, choice in shown)
    head = wording.head.replace("{question}", row["question"].strip())
    return f"{head}{choices}{wording.tail}"


def _letter(row: Mapping) -> str:
    return LETTERS[row["answer"]]


ARC = Benchmark(
    name="arc_challenge",
    read=functools.partial(read, wording=ARC_WORDING),
    verdict=verdict,
    shots=0,
    max_new_tokens=100,
    stop=("\n\n", "."),
)
MMLU = Benchmark(
    name="mmlu",
    read=functools.partial(read, wording=MMLU_WORDING),
    verdict=verdict,
    shots=4,
    max_new_tokens=10,
    stop=(".",),
)
MMLU_REDUX = Benchmark(
    name="mmlu_redux",
    read=functools.partial(read, wording=REDUX_WORDING),
    verdict=verdict_redux,
    shots=4,
    max_new_tokens=256,
    stop=("</s>",),
)
ARC_RANKED = Benchmark(
    name="arc_challenge_likelihood",
    read=functools.partial(read, wording=ARC_RANKED_WORDING),
    verdict=verdict_ranked_texts,
    shots=0,
    max_new_tokens=1,
)
MMLU_RANKED = Benchmark(
    name="mmlu_likelihood",
    read=functools.partial(read, wording=MMLU_RANKED_WORDING),
    verdict=verdict_ranked,
    shots=4,
    max_new_tokens=1,
)
