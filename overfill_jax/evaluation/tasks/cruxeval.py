"""CRUXEval, predicting a program's output: the direct prompt of Gu et al. (arXiv 2401.03065).

No text of a model is ever executed: the asserted value is read as a Python literal, which is what
the prompt asks for, and compared with the true output by Python's own ==.
"""

import ast
import warnings
from pathlib import Path
from typing import Any

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.question import Benchmark, Question, ask, turn
from overfill_jax.evaluation.tasks.rows import check_shots, read_rows

SYSTEM = {
    "role": "system",
    "content": "You are given a Python function and an assertion containing an input to the "
    "function. Complete the assertion with a literal (no unsimplified expressions, no function "
    "calls) containing the output when executing the provided code on the given input, even if "
    "the function is incorrect or incomplete. Do NOT output any extra information. Provide the "
    "full assertion with the correct output in [ANSWER] and [/ANSWER] tags, following the "
    "examples.\n",
}
# The published prompt has these two.
SHOTS = (
    ("def f(n):\n    return n", "17", "17"),
    ('def f(s):\n    return s + "a"', '"x9j"', '"x9ja"'),
)
_UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def read(path: Path, shots: int) -> list[Question]:
    """Rows with `code`, `input` and `output`, a Python literal.

    Raises:
      InputError: more shots than there are; a malformed row.
    """
    check_shots(shots, len(SHOTS))
    before = [
        message
        for code, given, output in SHOTS[:shots]
        for message in turn(
            _posed(code, given), f"[ANSWER]\nassert f({given}) == {output}\n[/ANSWER]"
        )
    ]
    questions = []
    for number, row in read_rows(path, {"code": str, "input": str, "output": str}):
        try:
            ast.literal_eval(row["output"])
        except _UNREADABLE as error:
            found = f"{row['output']!r:.60}"
            raise InputError(
                f"{path}:{number}: found output {found}, expected a Python literal"
            ) from error
        messages = [SYSTEM, *before, ask(_posed(row["code"], row["input"]))]
        questions.append(Question(f"{number}", messages, row["output"]))
    return questions


def _posed(code: str, given: str) -> str:
    return f"[PYTHON]\n{code}\nassert f({given}) == ??\n[/PYTHON]"


def verdict(question: Question, answer: str) -> dict[str, float]:
    """Whether the value that the answer asserts equals the program's, as == has it."""
    try:
        correct = _asserted(answer) == ast.literal_eval(question.gold)
    except _UNREADABLE:
        correct = False
    return {"pass@1": float(correct)}


def _asserted(answer: str) -> Any:
    """The literal behind == in the answer's first assertion, or the answer itself as a literal.

    Raises:
      One of `_UNREADABLE`: there is no literal.
    """
    _, opened, inside = answer.partition("[ANSWER]")
    text = (inside if opened else answer).partition("[/ANSWER]")[0]
    start = text.find("assert f(")
    statement = _first_statement(text[max(start, 0) :].strip())
    value = statement.test if isinstance(statement, ast.Assert) else statement.value
    if isinstance(value, ast.Compare) and [type(op) for op in value.ops] == [ast.Eq]:
        return ast.literal_eval(value.comparators[0])
    if isinstance(statement, ast.Assert):
        raise ValueError("an assertion, but of no equality")
    return ast.literal_eval(value)


def _first_statement(text: str) -> ast.Assert | ast.Expr:
    """The shortest run of lines that is Python, for a literal may reach over several."""
    lines = text.split("\n")  # where Python ends one; a literal may hold other ends
    for end in range(1, len(lines) + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as of an escape that Python does not know
                parsed = ast.parse("\n".join(lines[:end])).body
        except SyntaxError:
            continue
        if parsed and isinstance(parsed[0], ast.Assert | ast.Expr):
            return parsed[0]
    raise ValueError("no Python")


CRUXEVAL = Benchmark(
    name="cruxeval",
    read=read,
    verdict=verdict,
    shots=2,
    max_new_tokens=1024,
    stop=("[/ANSWER]",),
)
