"""Every benchmark is tested by hand-made answers with known verdicts, right ones and wrong ones."""

import pytest

from overfill_jax.evaluation.tasks.registry import BENCHMARKS
from tests.evaluation.tasks import (
    test_choice,
    test_cruxeval,
    test_gsm8k,
    test_ifeval,
    test_mathematics,
    test_nq_open,
    test_wmt16,
)

# Of each benchmark its cases, and how many of the last columns are the verdict.
KNOWN = {
    "gsm8k": (test_gsm8k.ANSWERS, 2),
    "arc_challenge": (test_choice.LETTERS, 1),
    "mmlu": (test_choice.LETTERS, 1),
    "mmlu_redux": (test_choice.FIRST_LETTERS, 1),
    "arc_challenge_likelihood": (test_choice.RANKINGS, 2),
    "mmlu_likelihood": (test_choice.RANKINGS, 2),
    "math": (test_mathematics.ANSWERS, 1),
    "wmt16": (test_wmt16.COUNTS, 4),
    "ifeval": (test_ifeval.LOOSELY, 2),
    "nq_open": (test_nq_open.ANSWERS, 1),
    "cruxeval": (test_cruxeval.ANSWERS, 1),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_twenty_answers_right_and_wrong(name):
    cases, verdict = KNOWN[name]
    assert len({repr(case) for case in cases}) == len(cases) >= 20
    verdicts = [case[-verdict:] for case in cases]
    if name == "wmt16":
        verdicts = [found == of and len(set(tokens)) == 1 for found, of, *tokens in verdicts]
    else:
        verdicts = [all(marks) for marks in verdicts]
    assert 5 <= sum(verdicts) <= len(cases) - 5
