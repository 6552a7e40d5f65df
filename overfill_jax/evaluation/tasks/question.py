"""What a benchmark is: questions read from a local file, and how their answers are judged."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
      id: names it within its file; answers are kept under it.
      messages: the conversation up to the answer that is asked for; earlier turns are the shots.
      gold: what its benchmark judges an answer by.
      prefix: how the answer is made to begin; the model goes on from there.
      choices: where one of these is the answer and none is written: the system's likelihoods of
        them, as continuations of the prompt, are what is judged.
      group: subject or kind, by which results are told apart; '' for none.
    """

    id: str
    messages: Sequence[Mapping[str, str]]
    gold: Any
    prefix: str = ""
    group: str = ""
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Whole:
    """A metric of all answers together that is no mean of marks, such as BLEU.

    Attributes:
      count: what an answer adds, as many numbers for every question.
      score: the metric, from the sums of these.
    """

    count: Callable[[Question, str], Sequence[int]]
    score: Callable[[Num[np.ndarray, "K"]], float]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark of the registry.

    Attributes:
      name: what `score.task` calls it.
      read: the questions of a file, each with so many shots before it.
      verdict: the marks of an answer, each from 0 to 1 under the name of its metric, the same
        metrics for every question; the first is the one that is compared. An answer is a text, or
        of questions with choices the log-likelihoods of these. None where the benchmark
        has only metrics of all answers together. An empty answer is judged like any other.
      shots: examples before each question, in the published protocol.
      max_new_tokens: an answer is cut there.
      stop: strings that end an answer, which they are no part of.
      whole: metrics of all answers together, by name; the first is the one that is compared where
        there are no marks.
      packages: distributions whose versions a verdict may depend on.
      signature: how the package that computes the metrics names the way it does, by which scores
        are compared with published ones; None where there is no such name.
    """

    name: str
    read: Callable[[Path, int], list[Question]]
    verdict: Callable[[Question, Any], dict[str, float]]
    shots: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    whole: Mapping[str, Whole] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()
    signature: Callable[[], str] | None = None


def turn(question: str, answer: str) -> list[dict[str, str]]:
    """A shot as two messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def ask(question: str) -> dict[str, str]:
    """The message that asks."""
    return {"role": "user", "content": question}
