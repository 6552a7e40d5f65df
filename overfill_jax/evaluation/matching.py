"""Checking an answer against its reference: equal as text, or equal in the number it ends with."""

import re
from collections.abc import Callable
from decimal import Decimal

from overfill_jax.errors import InputError

FINAL = "####"  # stands before the number that counts, in GSM8K
# Commas group thousands, or else separate numbers. Digits glued to a name ("m2", "v1.25") are none.
_MAGNITUDE = re.compile(
    r"(?<![^\W_])(?<!\d\.)(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+"
)
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


def final_number(text: str) -> Decimal | None:
    """The number behind the first `####`, or the last number of the text where there is none."""
    _, _, marked = text.partition(FINAL)
    match = _MAGNITUDE.search(marked)
    if match:
        return _value(match, marked)
    matches = list(_MAGNITUDE.finditer(text))
    return _value(matches[-1], text) if matches else None


def _value(match: re.Match, text: str) -> Decimal:
    value = Decimal(match.group().replace(",", ""))
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
