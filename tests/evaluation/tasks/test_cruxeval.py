from pathlib import Path

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.cruxeval import CRUXEVAL
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks.files import write_rows

# Gold, answer, and whether it is right.
ANSWERS = [
    ("17", "[ANSWER]\nassert f(17) == 17\n", True),
    ("17", "[ANSWER]\nassert f(17) == 17\n[/ANSWER] and more", True),
    ("17", "assert f(17) == 17", True),
    ("17", "17", True),
    ("17", "f(17) == 17", True),
    ("17", "Here you are:\nassert f(17) == 17", True),
    ("17", "[ANSWER]\nassert f(17) == 18\n[/ANSWER]\n[ANSWER]\nassert f(17) == 17\n", False),
    ("17", "assert f(17) == 17  # as it is", True),
    ("17", "assert f(17) == 10 + 7", False),
    ("17", "assert f(17) == int('17')", False),
    ("17", "assert f(17) == __import__('os').getpid()", False),
    ("17", "assert f(17) != 17", False),
    ("17", "assert 17", False),
    ("17", "assert f(17) == 17 == 17", False),
    ("17", "assert f(17) == '17'", False),
    ("17", "assert f(17) == 17.0", True),  # of one value to ==
    ("True", "assert f(17) == 1", True),
    ("'17'", "assert f(17) == 17", False),
    ("(1, 2)", "assert f(1) == (1, 2)", True),
    ("(1, 2)", "assert f(1) == [1, 2]", False),
    ("[]", "assert f(1) == ()", False),
    ("[]", "assert f(1) == []", True),
    ("None", "assert f(1) == None", True),
    ("None", "", False),
    ("''", "", False),
    ("''", "assert f(1) == ''", True),
    ("'=='", "assert f('==') == '=='", True),
    ("'a # b'", 'assert f(1) == "a # b"', True),
    ("'a\\nb'", "assert f(1) == 'a\\nb'", True),
    ("'a\\u2028b'", "assert f(1) == 'a\u2028b'", True),
    ("'[/A]'", "assert f(1) == '[/A]'", True),
    ("{1: None, 2: None}", "assert f(1) == {2: None,\n 1: None}", True),
    ("{1, 2}", "assert f(1) == {2, 1}", True),
    ("b'x'", "assert f(1) == 'x'", False),
    ("-1", "assert f(1) == -1", True),
    ("[1]", "assert f(1) == [1", False),
    ("17", "```python\nassert f(17) == 17\n```", True),
    ("17", "I do not know", False),
    ("17", "x = 17", False),
    ("17", "(" * 5000, False),
    ("17", "assert f(17) == " + "[" * 5000, False),
    ("17", "assert f(17) == " + "-" * 50000 + "17", False),
    ("17", "assert f(17) == " + "9" * 5000, False),
    ("17", "\x00", False),
    ("17", "assert f(17) == {[]: 1}", False),
    ("'\\\\d'", "assert f(1) == '\\d'", True),
]


@pytest.mark.parametrize(("gold", "answer", "right"), ANSWERS, ids=range(len(ANSWERS)))
def test_verdicts(gold, answer, right):
    assert CRUXEVAL.verdict(Question("1", [], gold), answer) == {"pass@1": right}


def test_nothing_is_executed(tmp_path):
    made = tmp_path / "made"
    code = f"__import__('pathlib').Path({str(made)!r}).touch()"
    for answer in (
        code,
        f"assert f(1) == {code}",
        f"assert {code} == 17",
        f"assert f({code}) == 1",
    ):
        CRUXEVAL.verdict(Question("1", [], "17"), answer)
    assert not Path(made).exists()


def test_shots_are_turns_before_the_question(tmp_path):
    file = write_rows(tmp_path, [{"code": "def f(x):\n    return x", "input": "3", "output": "3"}])
    (question,) = CRUXEVAL.read(file, CRUXEVAL.shots)
    assert [m["role"] for m in question.messages] == ["system"] + ["user", "assistant"] * 2 + [
        "user"
    ]
    assert question.messages[2]["content"] == "[ANSWER]\nassert f(17) == 17\n[/ANSWER]"
    assert question.messages[-1]["content"] == (
        "[PYTHON]\ndef f(x):\n    return x\nassert f(3) == ??\n[/PYTHON]"
    )


def test_refuses_shots_that_are_not_there(tmp_path):
    file = write_rows(tmp_path, [{"code": "", "input": "", "output": "1"}])
    with pytest.raises(InputError, match=r"score.shots: found 4, expected 0 to 2"):
        CRUXEVAL.read(file, 4)


def test_refuses_an_output_that_is_no_literal(tmp_path):
    rows = [{"code": "", "input": "", "output": output} for output in ("1", "open('x')")]
    with pytest.raises(InputError, match=r"rows.jsonl:2: found output .*, expected a Python lit"):
        CRUXEVAL.read(write_rows(tmp_path, rows), 0)


def test_reads_the_published_set(shared_data):
    questions = CRUXEVAL.read(shared_data / "cruxeval" / "cruxeval.jsonl", CRUXEVAL.shots)
    assert len(questions) == 800
    for question in questions:
        told = f"[ANSWER]\nassert f(x) == {question.gold}\n"
        assert CRUXEVAL.verdict(question, told)["pass@1"] == 1
