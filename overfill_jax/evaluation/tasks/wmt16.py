"""WMT16 from German to English: the harness's wmt16-de-en, scored in BLEU by sacrebleu.

The texts are parallel lines, as sacrebleu writes its test sets (`sacrebleu -t wmt16 -l de-en --echo
src > test.de`) and as WMT16's multimodal task has them (Multi30k). Shots are the first lines of
`val.de` and `val.en` beside the file; the harness draws them at random for each question.
"""

import functools
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Num

from overfill_jax.data.parallel import read_pairs
from overfill_jax.errors import InputError
from overfill_jax.evaluation.optional import require
from overfill_jax.evaluation.tasks.question import Benchmark, Question, Whole, ask, turn
from overfill_jax.evaluation.tasks.rows import check_shots

SOURCE, TARGET = ".de", ".en"
SHOTS = "val"  # the name of the files that shots come from
_ORDERS = 4  # BLEU counts n-grams up to this


def read(path: Path, shots: int) -> list[Question]:
    """German sentences in lines, `path`, and their English ones in the file of that name in `.en`.

    Raises:
      InputError: a file is missing or empty, the two have not as many lines, or one is blank; more
        shots than there are; sacrebleu is not installed.
    """
    _metric()
    before = []
    if shots:
        examples = _pairs(path.with_name(SHOTS + SOURCE))
        check_shots(shots, len(examples))
        before = [m for german, english in examples[:shots] for m in _shot(german, english)]
    return [
        Question(f"{number}", [*before, ask(_posed(german))], english)
        for number, (german, english) in enumerate(_pairs(path), 1)
    ]


def _pairs(path: Path) -> list[tuple[str, str]]:
    if path.exists() and path.suffix != SOURCE:
        raise InputError(f"{path}: found another text, expected German, a name that ends in .de")
    return read_pairs(path, TARGET)


def _posed(german: str) -> str:
    return f"German phrase: {german}\nEnglish phrase:"


def _shot(german: str, english: str) -> list[dict[str, str]]:
    # The space is the harness's; most chat templates trim it.
    return turn(_posed(german), f" {english}")


def verdict(question: Question, answer: str) -> dict[str, float]:
    """No mark: BLEU is of all answers together."""
    return {}


def count_ngrams(question: Question, answer: str) -> list[int]:
    """N-grams of the answer that are the reference's too, all of them, and both lengths."""
    found = _metric().sentence_score(answer, [question.gold])
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def bleu(sums: Num[np.ndarray, "10"]) -> float:
    """Corpus BLEU, 0 to 100, of what `count_ngrams` gives, summed over all answers."""
    *counts, answers, references = (int(number) for number in sums)
    matching, total = counts[:_ORDERS], counts[_ORDERS:]
    found = _metric().compute_bleu(matching, total, answers, references, smooth_method="exp")
    return found.score


def signature() -> str:
    """sacrebleu's, of the corpus BLEU that `bleu` gives."""
    metric = _library().BLEU(max_ngram_order=_ORDERS)
    metric.corpus_score([""], [[""]])  # which tells it how many references there are
    return str(metric.get_signature())


@functools.cache
def _metric():
    # Effective order changes only the sentence's own score, which is not used.
    return _library().BLEU(effective_order=True, max_ngram_order=_ORDERS)


def _library() -> ModuleType:
    return require("sacrebleu.metrics", "sacrebleu", "evaluation", "task wmt16")


WMT16 = Benchmark(
    name="wmt16",
    read=read,
    verdict=verdict,
    shots=4,
    max_new_tokens=256,
    stop=("\n",),
    whole={"bleu": Whole(count_ngrams, bleu)},
    signature=signature,
)
