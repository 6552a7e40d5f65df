"""Made-up results: two families of two rows, three systems that differ in what they get right."""

import numpy as np
import pytest

from overfill_jax.evaluation.accuracy import accuracy_by_family, mean_accuracy
from overfill_jax.evaluation.answer_loss import answer_loss
from overfill_jax.evaluation.lengths import lengths_of
from overfill_jax.evaluation.results import Result, Verdict
from overfill_jax.evaluation.systems import FULL, PRUNED_TUNED, TWO_STAGE, System

SHAPES = {"full": {"hidden_size": 64}, "decoder": {"hidden_size": 32}}
FAMILIES = ["sum", "sort", "sum", "sort"]


def make_result(system: System, correct: list[bool], loss: float, parameters: int) -> Result:
    families = accuracy_by_family(FAMILIES, correct)
    verdicts = [
        Verdict(
            row=row,
            family=family,
            prompt=f"prompt {row}",
            reference=f"right {row}",
            answer=f"right {row}" if ok else "<|*x",
            tokens=row if ok else 20,
            reason="stop" if ok else "length",
            correct=ok,
        )
        for row, (family, ok) in enumerate(zip(FAMILIES, correct, strict=True), 1)
    ]
    return Result(
        system=system,
        shapes={
            "reader": SHAPES["full" if system.reader == "full" else "decoder"],
            "writer": SHAPES["full" if system.writer == "full" else "decoder"],
        },
        parameters=parameters + 100,
        decode_parameters=parameters,
        decode_bytes=4 * parameters,
        families=families,
        accuracy=mean_accuracy(families),
        lengths=lengths_of(*zip(*((v.tokens, v.answer, v.reason) for v in verdicts), strict=True)),
        loss=answer_loss(np.full((4, 3), -loss), np.array([3, 3, 2, 1]), FAMILIES),
        verdicts=verdicts,
        seconds={"loading": 0.5, "loss": 1.0, "answers": 2.0},
    )


@pytest.fixture
def results() -> list[Result]:
    return [
        make_result(FULL, [True, True, True, True], 0.1, 1_240_000),
        make_result(TWO_STAGE, [True, True, True, False], 0.2, 350_000),
        make_result(PRUNED_TUNED, [False, False, True, False], 0.9, 350_000),
    ]
