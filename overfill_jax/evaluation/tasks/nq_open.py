"""NQ-open, questions without their documents: the harness's nq_open (Lee et al., arXiv 1906.00300).

Shots are the first rows of the training file beside the given one, which has `train` in its name
for `dev`; where there is none, the first rows of the given one, which then are not asked.
"""

import re
import string
from pathlib import Path

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.question import Benchmark, Question, ask, turn
from overfill_jax.evaluation.tasks.rows import read_rows

SYSTEM = {"role": "system", "content": "Answer these questions:\n\n"}
_ARTICLES = re.compile(r"\b(?:The |the |An |A |a |an )")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(path: Path, shots: int) -> list[Question]:
    """Rows with `question` and `answer`, a list of those that are right.

    Raises:
      InputError: a malformed row; fewer rows than the shots need.
    """
    rows = _read_answers(path)
    training = path.with_name(path.name.replace("dev", "train"))
    if training != path and training.exists():
        examples = _read_answers(training)
        if len(examples) < shots:
            raise InputError(
                f"{training}: found {len(examples)} rows, expected {shots} for score.shots"
            )
    else:
        examples, rows = rows, rows[shots:]
        if not rows:
            raise InputError(f"{path}: found too few rows for score.shots={shots} and a question")
    turns = [m for _, row in examples[:shots] for m in turn(_posed(row), row["answer"][0])]
    return [
        Question(f"{number}", [SYSTEM, *turns, ask(_posed(row))], row["answer"])
        for number, row in rows
    ]


def verdict(question: Question, answer: str) -> dict[str, float]:
    """Whether the answer equals one of the right ones up to case, articles and punctuation."""
    return {"exact_match": float(any(_same(answer, gold) for gold in question.gold))}


def _read_answers(path: Path) -> list[tuple[int, dict]]:
    rows = []
    for number, row in read_rows(path, {"question": str, "answer": list}):
        if not row["answer"] or not all(type(a) is str and a.strip() for a in row["answer"]):
            found = f"{row['answer']!r:.80}"
            raise InputError(f"{path}:{number}: found answer {found}, expected a list of texts")
        rows.append((number, row))
    return rows


def _same(answer: str, gold: str) -> bool:
    found, expected = _normalised(answer), _normalised(gold)
    # Of a gold that is all punctuation nothing would be left, which any punctuation equals.
    return found == expected if expected else answer.strip() == gold.strip()


def _normalised(text: str) -> str:
    plain = _ARTICLES.sub("", text.strip()).lower().translate(_NO_PUNCTUATION)
    return " ".join(plain.split())


def _posed(row: dict) -> str:
    return f"Q: {row['question']}?\nA:"


NQ_OPEN = Benchmark(
    name="nq_open",
    read=read,
    verdict=verdict,
    shots=4,
    max_new_tokens=256,
    stop=("\n", ".", ","),
)
