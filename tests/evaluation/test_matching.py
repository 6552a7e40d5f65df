from fractions import Fraction

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
        # Fractions and exponents.
        ("the answer is 1/2", "1/2"),
        ("3/4 of a cake.", "3/4"),
        ("-3/4", "-3/4"),
        ("$1,000/4", "250"),
        ("1.5/2", "3/4"),
        ("50 1/2%", "101/2"),
        ("-1 1/2 cups", "-3/2"),
        ("10/2 = 5", "5"),
        ("10 / 2", "2"),
        ("#### 6/8", "3/4"),
        ("1e3", "1000"),
        ("-2.5E-1", "-1/4"),
        ("1.5e+3 m", "1500"),
        ("5eggs", "5"),
        # What a unit or a colon adds.
        ("$5/hour", "5"),
        ("60 km/h", "60"),
        ("4 m^2", "4"),
        ("4 s^{-1}", "4"),
        ("4 m\u00b2", "4"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        ("Answer:18", "18"),
        ("In step 5:", "5"),
        ("9:30 + 5 = 12", "12"),
        # What stands behind the mark counts, and only what the first of them marks.
        ("9 * 2 = 18\n#### 18\n\nQ: 3 + 4?\n#### 7", "18"),
        ("#### $1,000 in 2 years", "1000"),
        ("it is 4 ####", "4"),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == Fraction(number)


@pytest.mark.parametrize(
    "text",
    [
        *("", "no number", "####", "m2", "H2O", "v1.25", "- . ,", "$"),
        *("5 and at 9:30", "5, a ratio of 2:3", "5 = 2^3", "5 = 3 * 10^{-6}", "5 = 2^n"),
        *("5, so x/2", "(5+3)/2", "5 on 11/28/2026", "5 = 1/0", "5 = 1/-2", "5 = 1e9999", "5 = 2²"),
        *("#### 2:3 or 5", "5 = 1\u00bd"),
    ],
)
def test_no_number(text):
    assert final_number(text) is None
    assert not same_number(text, text)


def test_numbers_are_compared_by_value():
    assert same_number("She makes $18.00.", "9 * 2 = 18\n#### 18")
    assert not same_number("#### 180", "#### 18")
    assert not same_number("18", "-18")
    assert same_number("It is 0.75.", "#### 3/4")
    assert not same_number("the answer is 1/2", "2")
    assert not same_number("3/4", "3")
    assert not same_number("1e3", "1")
    assert same_number("9" * 9999, "9" * 9999)


def test_text_is_compared_up_to_white_space():
    assert same_text("  red  hat\n", "red hat")
    assert not same_text("redhat", "red hat")
    assert not same_text("red hat", "Red hat")
    assert not same_text("", "red hat")


def test_unknown_match_is_named():
    with pytest.raises(InputError, match=r"evaluate\.match: found 'exact', expected one of text, "):
        find_match("exact")
