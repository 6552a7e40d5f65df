"""How right the answers to a task are."""

from types import SimpleNamespace

import pytest

from overfill_jax.benchmarking.task_answers import accuracy_of
from overfill_jax.inference.answers import Answer


@pytest.mark.usefixtures("unchecked")
def test_every_family_counts_the_same_however_many_rows_it_has():
    rows = [("a", "1"), ("a", "1"), ("a", "1"), ("b", "1")]
    examples = [SimpleNamespace(family=family, reference=gold) for family, gold in rows]
    task = SimpleNamespace(examples=examples, match=str.__eq__)
    answers = [Answer([5], text, "stop") for text in ("1", "1", "1", "2")]
    assert accuracy_of(answers, task) == 0.5
