"""Questions as tokens: a prompt stays the same to the token, whatever choice stands behind it."""

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.exam import encode_question
from overfill_jax.evaluation.tasks.question import Question
from tests.data.test_chat import Letters, template_of


def encode(choices: tuple[str, ...], tokenizer: Letters):
    template = template_of("{% for m in messages %}{{ m.content }}{% endfor %}")
    question = Question("7", [{"content": "a"}], 0, prefix="b", choices=choices)
    return encode_question(question, tokenizer, template, "rows.jsonl")


def test_choices_are_encoded_with_the_prompt():
    asked = encode(("cd", "d"), Letters("cd"))
    assert asked.text == "ab"
    assert asked.tokens == Letters().encode("ab")
    assert asked.choices == [Letters("cd").encode("cd"), Letters().encode("d")]


def test_a_choice_that_merges_with_the_prompt_is_encoded_by_itself():
    merging = Letters("bc", "abd")
    asked = encode(("cd", "c", "d", "e"), merging)
    assert asked.tokens == merging.encode("ab")
    assert asked.choices == [merging.encode(choice) for choice in ("cd", "c", "d", "e")]


def test_an_empty_choice_is_named():
    message = r"score\.source: rows\.jsonl, question 7: found the choice '', which adds no token"
    with pytest.raises(InputError, match=message):
        encode(("c", ""), Letters())
