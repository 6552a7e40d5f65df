import itertools

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks import ifeval
from overfill_jax.evaluation.tasks.instructions import INSTRUCTIONS, read_arguments
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks.instruction_answers import GROUPS

for package in ("langdetect", "nltk", "punkt"):
    pytest.importorskip(package)

CASES = [
    pytest.param(name, arguments, answer, right, id=f"{name}-{answer[:20]!r}-{right}")
    for name, arguments, follow, fail in itertools.chain(*GROUPS)
    for right, answers in ((True, follow), (False, fail))
    for answer in answers
]


@pytest.mark.parametrize("name, arguments, answer, right", CASES)
def test_verdicts(name, arguments, answer, right):
    question = Question("1", [], [(name, read_arguments(name, arguments))])
    assert ifeval.follows(question, answer) == [right]


def test_every_instruction_is_tested():
    """At least two answers that follow it and two that do not, and twenty of each group."""
    for name in INSTRUCTIONS:
        cases = [case for group in GROUPS for case in group if case[0] == name]
        assert sum(len(case[2]) for case in cases) >= 2
        assert sum(len(case[3]) for case in cases) >= 2
    for group in GROUPS:
        assert len({case[0].split(":")[0] for case in group}) == 1
        assert sum(len(case[2]) + len(case[3]) for case in group) >= 20


def test_null_arguments_are_none():
    given = {"num_words": 20, "relation": "less than", "keywords": None, "language": None}
    kept = {"num_words": 20, "relation": "less than"}
    assert read_arguments("length_constraints:number_words", given) == kept
    assert read_arguments("punctuation:no_comma", given | kept.fromkeys(kept)) == {}


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("keywords:exists", {}, "instruction 'keywords:exists', expected one of keywords:existen"),
        (["a"], {}, r"instruction \['a'\], expected one of"),
        ("keywords:existence", {}, "keywords is nothing, expected a list of texts"),
        ("keywords:existence", {"keywords": "cat"}, "keywords is 'cat', expected a list"),
        ("keywords:existence", {"keywords": [1]}, r"keywords is \[1\], expected a list"),
        ("keywords:existence", {"keywords": []}, r"keywords is \[\], expected a list"),
        ("detectable_format:title", {"n": 3}, "title: argument 'n', expected none"),
        ("startend:end_checker", {"end_phrase": " "}, "end_phrase is ' ', expected a text"),
        (
            "length_constraints:number_paragraphs",
            {"num_paragraphs": "3"},
            "number_paragraphs: num_paragraphs is '3', expected a whole number of at least 1",
        ),
        (
            "length_constraints:number_paragraphs",
            {"num_paragraphs": 3, "extra": 1},
            "argument 'extra', expected num_paragraphs",
        ),
        ("detectable_format:number_bullet_lists", {"num_bullets": 0}, "is 0, expected a whole"),
        ("detectable_format:number_bullet_lists", {"num_bullets": True}, "is True, expected"),
        (
            "length_constraints:number_words",
            {"num_words": 9, "relation": "at most"},
            "relation is 'at most', expected one of less than, at least",
        ),
        ("language:response_language", {"language": "xx"}, "language is 'xx', expected one of ar,"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "letter is 'ab', expected one character",
        ),
    ],
)
def test_wrong_arguments_are_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        read_arguments(name, arguments)
