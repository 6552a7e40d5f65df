"""The benchmarks by name."""

import difflib

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks import gsm8k
from overfill_jax.evaluation.tasks.question import Benchmark

BENCHMARKS: dict[str, Benchmark] = {found.name: found for found in (gsm8k.GSM8K,)}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
      InputError: there is none; with the nearest name.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InputError(f"unknown task {name!r}{hint} Expected one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
