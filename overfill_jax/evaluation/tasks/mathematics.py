"""MATH with worked solutions: the harness's minerva_math (Hendrycks et al., arXiv 2103.03874).

The four shots are those of Minerva (Lewkowycz et al., arXiv 2206.14858, appendix D). Which part of
a text is its result, and whether two results are equal, is math-verify's to say. It takes the first
of these that the text has, and of several the one that ends last:

1. what stands between "final answer is" and "I hope", the words of the shots;
2. what is boxed or stands behind "final answer is", whichever comes later;
3. what follows "answer:", then what follows "answer";
4. any LaTeX in dollars or brackets, or number.

What cannot be read as mathematics is passed over, but may equal the solution's letter by letter.
Boxes are one result, a set, where "and", "or" or a comma joins them, where they share their dollars
and where the last has none; elsewhere the last counts. The set's solutions are read alike.
"""

import atexit
import concurrent.futures
import functools
import multiprocessing
import threading
from pathlib import Path
from types import ModuleType

from overfill_jax.errors import InputError
from overfill_jax.evaluation.optional import require
from overfill_jax.evaluation.tasks.question import Benchmark, Question, ask, turn
from overfill_jax.evaluation.tasks.rows import check_shots, read_rows

SHOTS = (
    (
        r"Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.",
        r"The expressions inside each square root must be non-negative. Therefore, $x-2 \ge 0$, so "
        r"$x\ge2$, and $5 - x \ge 0$, so $x \le 5$. Also, the denominator cannot be equal to zero, "
        r"so $5-x>0$, which gives $x<5$. Therefore, the domain of the expression is "
        r"$\boxed{[2,5)}$."
        "\n"
        r"Final Answer: The final answer is $[2,5)$. I hope it is correct.",
    ),
    (
        r"If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find "
        r"$\det (\mathbf{A} \mathbf{B}).$",
        r"We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det \mathbf{B}) = "
        r"(2)(12) = \boxed{24}.$"
        "\n"
        r"Final Answer: The final answer is $24$. I hope it is correct.",
    ),
    (
        "Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights "
        "instead, how many times must Terrell lift them in order to lift the same total weight?",
        r"If Terrell lifts two 20-pound weights 12 times, he lifts a total of "
        r"$2\cdot 12\cdot20=480$ pounds of weight.  If he lifts two 15-pound weights instead for "
        r"$n$ times, he will lift a total of $2\cdot15\cdot n=30n$ pounds of weight.  Equating "
        r"this to 480 pounds, we can solve for $n$:"
        "\n\\begin{align*}\n30n&=480\\\\\n"
        r"\Rightarrow\qquad n&=480/30=\boxed{16}"
        "\n\\end{align*}\n"
        r"Final Answer: The final answer is $16$. I hope it is correct.",
    ),
    (
        "If the system of equations\n\n\\begin{align*}\n6x-4y&=a,\\\\\n6y-9x &=b.\n\\end{align*}"
        "has a solution $(x, y)$ where $x$ and $y$ are both nonzero,\n"
        r"find $\frac{a}{b},$ assuming $b$ is nonzero.",
        r"If we multiply the first equation by $-\frac{3}{2}$, we obtain"
        "\n\n"
        r"$$6y-9x=-\frac{3}{2}a.$$Since we also know that $6y-9x=b$, we have"
        "\n\n"
        r"$$-\frac{3}{2}a=b\Rightarrow\frac{a}{b}=\boxed{-\frac{2}{3}}.$$"
        "\n"
        r"Final Answer: The final answer is $-\frac{2}{3}$. I hope it is correct.",
    ),
)


def read(path: Path, shots: int) -> list[Question]:
    """Rows with `problem` and `solution`, whose answer is boxed; `type` or `subject` is the group.

    Raises:
      InputError: more shots than there are; a malformed row; math-verify is not installed.
    """
    _library()
    check_shots(shots, len(SHOTS))
    before = [m for problem, solution in SHOTS[:shots] for m in turn(_posed(problem), solution)]
    questions = []
    for number, row in read_rows(path, {"problem": str, "solution": str}):
        if "\\boxed" not in row["solution"]:
            raise InputError(
                f"{path}:{number}: found no \\boxed answer in 'solution', expected one"
            )
        # As MATH and MATH-500 name it; it only tells results apart.
        group = row.get("type") or row.get("subject") or ""
        if not isinstance(group, str):
            raise InputError(
                f"{path}:{number}: found a 'type' or 'subject' of {group!r:.60}, expected str"
            )
        messages = [*before, ask(_posed(row["problem"]))]
        questions.append(Question(f"{number}", messages, row["solution"], group=group))
    return questions


def _posed(problem: str) -> str:
    return f"Problem:\n{problem}\n\nSolution:"


def verdict(question: Question, answer: str) -> dict[str, float]:
    """Whether the answer's result equals the solution's; what takes longer than 5 s does not.

    math-verify's limits are alarms, which only a main thread can set: in another thread the verdict
    is a process's that is kept for it, and a script needs its `if __name__ == "__main__":`.
    """
    if threading.current_thread() is threading.main_thread():
        right = _equal(question.gold, answer)
    else:
        right = _process().submit(_equal, question.gold, answer).result()
    return {"math_verify": float(right)}


def _equal(solution: str, answer: str) -> bool:
    library = _library()
    return library.verify(library.parse(solution), library.parse(answer))


@functools.cache
def _process() -> concurrent.futures.Executor:
    # Not forked: JAX has threads.
    process = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    atexit.register(process.shutdown)  # left to the collector, it may complain at the end
    return process


def _library() -> ModuleType:
    return require("math_verify", "math-verify", "evaluation", "task math")


MATH = Benchmark(
    name="math",
    read=read,
    verdict=verdict,
    shots=4,
    # The harness's own limit of 256 would cut half of the set's solutions.
    max_new_tokens=1024,
    stop=("Problem:",),
    packages=("math-verify", "latex2sympy2-extended", "sympy", "antlr4-python3-runtime"),
)
