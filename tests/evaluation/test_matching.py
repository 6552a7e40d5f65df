from decimal import Decimal

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.matching import final_number, find_match, same_number, same_text


@pytest.mark.parametrize(
    "text, number",
    [
        ("#### 18", "18"),
        ("The answer is 18.", "18"),
        ("#### 1,234.50", "1234.5"),
        ("1,234,567.8.", "1234567.8"),
        ("1,2,3", "3"),  # a list
        ("12,34", "34"),
        ("in 2024", "2024"),
        ("18%", "18"),
        ("5kg", "5"),
        ("...5", "5"),
        (".5", "0.5"),
        ("**5**", "5"),
        ("_5_", "5"),
        ("\\boxed{42}", "42"),
        ("4 m2", "4"),  # the exponent of a unit is no answer
        ("1.2.3", "1.2"),
        # Signs and subtractions.
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("= -3", "-3"),
        ("x=-3", "-3"),
        ("(-5)", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("#### -1,000", "-1000"),
        ("<<9-12=-3>>-3", "-3"),
        ("3 - -2", "-2"),
        ("16-3", "3"),
        ("10 - 3", "3"),
        ("(2)-1", "1"),
        ("between 5-10", "10"),
        ("- 5 apples", "5"),
        # What stands behind the mark counts, and only what the first of them marks.
        ("9 * 2 = 18\n#### 18\n\nQ: 3 + 4?\n#### 7", "18"),
        ("#### $1,000 in 2 years", "1000"),
        ("it is 4 ####", "4"),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "no number", "####", "m2", "H2O", "v1.25", "- . ,", "$"])
def test_no_number(text):
    assert final_number(text) is None
    assert not same_number(text, text)


def test_numbers_are_compared_by_value():
    assert same_number("She makes $18.00.", "9 * 2 = 18\n#### 18")
    assert not same_number("#### 180", "#### 18")
    assert not same_number("18", "-18")


def test_text_is_compared_up_to_white_space():
    assert same_text("  red  hat\n", "red hat")
    assert not same_text("redhat", "red hat")
    assert not same_text("red hat", "Red hat")
    assert not same_text("", "red hat")


def test_unknown_match_is_named():
    with pytest.raises(InputError, match=r"evaluate\.match: found 'exact', expected one of text, "):
        find_match("exact")
