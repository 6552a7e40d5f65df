import concurrent.futures
import importlib

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.mathematics import MATH
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks.files import write_rows

HALF = r"Therefore it is $\boxed{\frac{1}{2}}$."
COLUMN = r"$\boxed{\begin{pmatrix}1\\2\end{pmatrix}}$"
# Solution, answer, and whether it is right.
ANSWERS = [
    (HALF, r"Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.", True),
    (HALF, r"So it is $\boxed{\frac12}$.", True),
    (HALF, r"So it is $\boxed{0.5}$.", True),
    (HALF, r"So it is $\frac{2}{4}$.", True),
    (HALF, "1/2", True),
    (HALF, r"$\frac{1}{2}$? No: $\boxed{\frac{1}{3}}$.", False),
    (HALF, r"$\boxed{2}$", False),
    (HALF, r"$\boxed{-\frac{1}{2}}$", False),
    (HALF, "", False),
    (HALF, "I do not know.", False),
    (r"$\boxed{16}$", "16 meters", True),
    (r"$\boxed{16}$", r"$\boxed{16", False),
    (r"$\boxed{16}$", r"\boxed{}", False),
    (r"$\boxed{1600}$", "1,600", True),
    (r"$\boxed{3}$", "$x=3$", True),
    (r"$\boxed{(1,2)}$", r"$\boxed{(1,2)}$", True),
    (r"$\boxed{(1,2)}$", r"$\boxed{(2,1)}$", False),
    (r"$\boxed{[2,5)}$", r"$\boxed{[2,5)}$", True),
    (r"$\boxed{[2,5)}$", r"$\boxed{(2,5)}$", False),
    (r"$\boxed{\{1,2\}}$", r"$\boxed{\{2,1\}}$", True),
    (r"$\boxed{2\sqrt{2}}$", r"$\boxed{\sqrt{8}}$", True),
    (r"$\boxed{(x+1)^2}$", r"$\boxed{x^2+2x+1}$", True),
    (r"$\boxed{(x+1)^2}$", r"$\boxed{x^2+1}$", False),
    (r"$\boxed{\text{Tuesday}}$", r"$\boxed{\text{Tuesday}}$", True),
    (r"$\boxed{\text{Tuesday}}$", r"$\boxed{\text{Monday}}$", False),
    (r"$\boxed{\pi}$", "3.14", False),
    (r"$\boxed{90}$", r"$\boxed{90^\circ}$", True),
    (r"$\boxed{5}$", "[" * 8000, False),
    (r"$\boxed{5}$", "\\frac" * 500, False),
    (r"$\boxed{5}$", r"$9^{9^{9^{9}}}$", False),  # beyond what can be reckoned out
    (r"$\boxed{10\%}$", "10 percent", True),
    (r"$\boxed{10\%}$", "10", True),  # a number may go without its percent sign
    (r"$\boxed{1,2}$", "2 and 1", False),
    (r"$\boxed{1,2}$", "$2$ and $1$", True),
    (r"$\boxed{\pm 1}$", r"$x = 1$ or $x = -1$", True),
    (r"$\boxed{101_2}$", r"$\boxed{101}$", True),  # bases are not read
    (r"$\boxed{\frac{1}{3}}$", "0.333", False),
    (r"$\boxed{0.\overline{3}}$", r"$\boxed{0.\overline{3}}$", True),  # letter by letter
    (r"$\boxed{0.\overline{3}}$", r"$\boxed{\frac{1}{3}}$", False),
    (r"$\boxed{x<3}$", r"$(-\infty,3)$", True),
    (COLUMN, r"$\begin{bmatrix}1\\2\end{bmatrix}$", True),
    (COLUMN, r"$\begin{bmatrix}2\\1\end{bmatrix}$", False),
]
# Answers, and which number in them is read as their result.
RESULTS = [
    (r"$\boxed{1}$ and later $\boxed{2}$.", "2"),
    (r"$\boxed{2}$ where $x = \frac{1}{3}$ and $y = 4$.", "2"),
    (r"$\boxed{4}$. The final answer is $3$.", "3"),
    (r"The final answer is $3$. And $\boxed{4}$.", "4"),
    (r"The final answer is $3$. I hope it is correct. Or $\boxed{4}$.", "3"),
    ("The final answer is 3. I hope so. The final answer is $5$.", "3"),
    ("The final answer is $3$. I hope. The final answer is $5$. I hope.", "5"),
    ("The final answer is $3$. The final answer is $5$. Also $7$.", "5"),
    (r"$\boxed{4}$. The answer is $3$. Answer: $5$.", "4"),
    ("Answer: $5$. The answer is $6$, and $7$.", "5"),
    ("The answer is $6$. We have used $7$ and 8.", "6"),
    ("$3$, then $7$, then 9", "9"),
    ("9, then $3$", "3"),
    (r"$\boxed{}$, that is $7$", "7"),
    (r"$7$ and $\boxed{8", "7"),
    (r"\boxed 5", "5"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"$x = \boxed{5} = 2 + 3$", "5"),
    (r"$\boxed{1}$ and $\boxed{2}$", r"\{1,2\}"),
    (r"$\boxed{1}, \boxed{2}$", r"\{1,2\}"),
    (r"\boxed{1}, no, \boxed{2}", r"\{1,2\}"),
    (r"$\boxed{1}$, no, \boxed{2}", r"\{1,2\}"),
    (r"\boxed{1}, no, $\boxed{2}$", "2"),
    (r"$\boxed{1}$, no, $\boxed{2}$", "2"),
]


@pytest.mark.parametrize(("solution", "answer", "right"), ANSWERS, ids=range(len(ANSWERS)))
def test_verdicts(solution, answer, right):
    pytest.importorskip("math_verify")
    assert MATH.verdict(Question("1", [], solution), answer) == {"math_verify": right}


def test_verdicts_of_another_thread():
    """math-verify's alarms are a main thread's; what takes too long ends there as well."""
    pytest.importorskip("math_verify")
    question = Question("1", [], r"$\boxed{5}$")
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        answers = ["$5$", "$6$", "$9^{9^{9^{9}}}$", "$10/2$"]
        found = [thread.submit(MATH.verdict, question, answer) for answer in answers]
        assert [one.result()["math_verify"] for one in found] == [1, 0, 0, 1]


@pytest.mark.parametrize(("answer", "result"), RESULTS, ids=range(len(RESULTS)))
def test_which_part_of_an_answer_counts(answer, result):
    pytest.importorskip("math_verify")
    assert MATH.verdict(Question("1", [], rf"$\boxed{{{result}}}$"), answer) == {"math_verify": 1}
    assert MATH.verdict(Question("1", [], answer), rf"$\boxed{{{result}}}$") == {"math_verify": 1}


ROW = {"problem": "What is half of 1?", "solution": HALF, "type": "Algebra", "level": "Level 1"}


def test_shots_are_turns_before_the_question(tmp_path):
    pytest.importorskip("math_verify")
    (question,) = MATH.read(write_rows(tmp_path, [ROW]), MATH.shots)
    assert [m["role"] for m in question.messages] == ["user", "assistant"] * 4 + ["user"]
    assert question.messages[-1]["content"] == "Problem:\nWhat is half of 1?\n\nSolution:"
    assert (question.gold, question.group) == (HALF, "Algebra")
    for message in question.messages[1::2]:
        assert MATH.verdict(Question("1", [], message["content"]), message["content"]) == {
            "math_verify": 1
        }


def test_the_group_is_a_type_or_a_subject_or_none(tmp_path):
    pytest.importorskip("math_verify")
    bare = {name: ROW[name] for name in ("problem", "solution")}
    rows = [ROW | {"subject": "x"}, bare | {"subject": "Geometry"}, bare, bare | {"type": None}]
    questions = MATH.read(write_rows(tmp_path, rows), 0)
    assert [question.group for question in questions] == ["Algebra", "Geometry", "", ""]
    with pytest.raises(
        InputError, match=r"rows.jsonl:2: found a 'type' or 'subject' of \[3\], exp"
    ):
        MATH.read(write_rows(tmp_path, [ROW, bare | {"subject": [3]}]), 0)


def test_refuses_a_solution_without_an_answer(tmp_path):
    pytest.importorskip("math_verify")
    rows = [ROW, ROW | {"solution": "It is a half."}]
    with pytest.raises(InputError, match=r"rows.jsonl:2: found no \\boxed answer"):
        MATH.read(write_rows(tmp_path, rows), 0)


def test_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"no math-verify.*pip install 'overfill_jax\[eval"):
        MATH.read(write_rows(tmp_path, [ROW]), 0)


def test_reads_the_published_set(shared_data):
    pytest.importorskip("math_verify")
    questions = MATH.read(shared_data / "math" / "test.jsonl", MATH.shots)
    assert len(questions) == 5000
    assert all(MATH.verdict(q, q.gold)["math_verify"] for q in questions[::100])
