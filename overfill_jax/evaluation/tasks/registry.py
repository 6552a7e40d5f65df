"""The benchmarks by name."""

import difflib

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks import (
    choice,
    cruxeval,
    gsm8k,
    ifeval,
    mathematics,
    nq_open,
    wmt16,
)
from overfill_jax.evaluation.tasks.question import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    found.name: found
    for found in (
        gsm8k.GSM8K,
        choice.ARC,
        choice.MMLU,
        choice.MMLU_REDUX,
        choice.ARC_RANKED,
        choice.MMLU_RANKED,
        mathematics.MATH,
        wmt16.WMT16,
        ifeval.IFEVAL,
        nq_open.NQ_OPEN,
        cruxeval.CRUXEVAL,
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
      InputError: there is none; with the nearest name.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InputError(
            f"score.task: unknown task {name!r}{hint} Expected one of {', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]
