"""Checking an answer against its reference: equal as text, or equal in the number it ends with."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from overfill_jax.errors import InputError

FINAL = "####"  # stands before the number that counts, in GSM8K
# Commas group thousands, or else separate numbers.
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_DECIMAL = rf"{_DIGITS}(?:[eE][-+]?\d+)?"
# Digits glued to a name ("m2", "v1.25") are none, nor is the exponent of a unit ("m^2").
_BEGINNING = (
    r"(?:(?<![^\W_])(?<!\d\.)(?=\d)|(?<![\w.])(?=\.\d))"
    r"(?<!\^)(?<!\^[-\u2212])(?<!\^\{)(?<!\^\{[-\u2212])"
)
# What a number is not read without: the rest of a fraction, a time, a ratio or a power. Degrees,
# in LaTeX a power, are a unit.
_REST = (
    rf"(?:(?::|/[-\u2212]?|\^\{{?[-\u2212]?){_DECIMAL}|\^(?!\{{?\\circ)"
    r"|[\u00b2\u00b3\u00b9\u2070-\u2079\u00bc-\u00be])*"
)
_MAGNITUDE = re.compile(rf"/?{_BEGINNING}(?:\d+ (?=\d+/\d))?{_DECIMAL}{_REST}")
# An exponent of more digits would make a number of as many as memory has.
_EXACT = rf"{_DIGITS}(?:[eE][-+]?\d{{1,3}})?"
_READABLE = re.compile(rf"(?:(\d+) )?({_EXACT})(?:/({_EXACT}))?")
# A minus glued to its number is a sign, unless it takes that number from something: "16-3" ends in
# 3, "= -3" in -3. A currency may stand on either side of the sign.
_MINUS = re.compile(r"(?:^|[^\w.%)\]])[-\u2212][$€£]?$")


def same_text(answer: str, reference: str) -> bool:
    """Equal up to white space."""
    return answer.split() == reference.split()


def same_number(answer: str, reference: str) -> bool:
    """Equal in the number that each gives in the end; an answer without a number is wrong."""
    found = final_number(answer)
    return found is not None and found == final_number(reference)


def final_number(text: str) -> Fraction | None:
    """The number behind the first `####`, or the last number of the text where there is none.

    Fractions ("3/4", "1 1/2") and exponents ("1e3") are read; a time, a ratio, a power or a date in
    that place is no number, and no part of it is one.
    """
    _, _, marked = text.partition(FINAL)
    match = _MAGNITUDE.search(marked)
    if match:
        return _value(match, marked)
    matches = list(_MAGNITUDE.finditer(text))
    return _value(matches[-1], text) if matches else None


def _value(match: re.Match, text: str) -> Fraction | None:
    readable = _READABLE.fullmatch(match.group())
    if readable is None:
        return None
    # By way of Decimal, for Fraction refuses texts of thousands of digits.
    whole, above, below = (
        Fraction(Decimal((part or absent).replace(",", "")))
        for part, absent in zip(readable.groups(), ("0", "", "1"), strict=True)
    )
    if not below:
        return None
    value = whole + above / below
    return -value if _MINUS.search(text[: match.start()]) else value


MATCHES: dict[str, Callable[[str, str], bool]] = {"text": same_text, "number": same_number}


def find_match(name: str) -> Callable[[str, str], bool]:
    """The check that `evaluate.match` names.

    Raises:
      InputError: there is no such check.
    """
    if name not in MATCHES:
        raise InputError(f"evaluate.match: found {name!r}, expected one of {', '.join(MATCHES)}")
    return MATCHES[name]
