"""Greedy answers of a pair to the rows of a task: how right they are, and how long they took."""

import time
from collections.abc import Sequence

import numpy as np

from overfill_jax.evaluation.accuracy import accuracy_by_family, mean_accuracy
from overfill_jax.evaluation.task import Task
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.transformer import Model


def answers_of(
    reader: Model, writer: Model, task: Task, refresh: Refresh | None, cache: str
) -> tuple[list[Answer], float, Generator]:
    """Greedy answers, and the seconds that they took once everything was compiled."""
    tokenizer = task.tokenizer
    prompts = [example.prompt.tolist() for example in task.examples]
    for _ in range(2):
        generator = Generator(
            reader, writer, task.first_token, tokenizer.stop_ids, tokenizer.pad_id, tokenizer,
            refresh, cache,
        )  # fmt: skip
        start = time.perf_counter()
        answers = generator.generate(prompts, GREEDY, task.max_new_tokens, task.batch_size)
        seconds = time.perf_counter() - start
    return answers, seconds, generator


def matches(answers: Sequence[Answer], task: Task) -> list[bool]:
    """Of each answer whether it matches its reference."""
    pairs = zip(answers, task.examples, strict=True)
    return [task.match(answer.text, one.reference) for answer, one in pairs]


def accuracy_of(answers: Sequence[Answer], task: Task) -> float:
    """Share of answers that match their reference, the mean over the families, as of `evaluate`."""
    families = [example.family for example in task.examples]
    return mean_accuracy(accuracy_by_family(families, matches(answers, task))).share


def agreement(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Share of answers that equal the others', token for token."""
    return float(np.mean([a.tokens == b.tokens for a, b in zip(answers, others, strict=True)]))
