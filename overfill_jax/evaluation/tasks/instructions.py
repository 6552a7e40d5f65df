"""The instructions that IFEval's rows name: their checks, and the arguments that these take."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks import instruction_checks as checks

LANGUAGES = (
    *("ar", "bg", "bn", "de", "en", "es", "fa", "fi", "fr", "gu", "he", "hi", "it", "ja", "kn"),
    *("ko", "ml", "mr", "ne", "pa", "pl", "pt", "ru", "sw", "ta", "te", "th", "uk", "ur", "vi"),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an argument has to be."""

    words: str
    fits: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


NUMBER = Kind("a whole number of at least 1", lambda value: type(value) is int and value >= 1)
TEXT = Kind("a text", _is_text)
TEXTS = Kind(
    "a list of texts", lambda value: isinstance(value, list) and value and all(map(_is_text, value))
)
CHARACTER = Kind("one character", lambda value: _is_text(value) and len(value) == 1)
RELATION = Kind(f"one of {', '.join(checks.RELATIONS)}", lambda value: value in checks.RELATIONS)
LANGUAGE = Kind(f"one of {', '.join(LANGUAGES)}", lambda value: value in LANGUAGES)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """How an instruction is checked, by a function of the answer and its arguments."""

    check: Callable[..., bool]
    arguments: Mapping[str, Kind] = dataclasses.field(default_factory=dict)


INSTRUCTIONS = {
    "keywords:existence": Instruction(checks.has_keywords, {"keywords": TEXTS}),
    "keywords:frequency": Instruction(
        checks.keyword_frequency, {"keyword": TEXT, "frequency": NUMBER, "relation": RELATION}
    ),
    "keywords:forbidden_words": Instruction(checks.lacks_words, {"forbidden_words": TEXTS}),
    "keywords:letter_frequency": Instruction(
        checks.letter_frequency,
        {"letter": CHARACTER, "let_frequency": NUMBER, "let_relation": RELATION},
    ),
    "language:response_language": Instruction(checks.in_language, {"language": LANGUAGE}),
    "length_constraints:number_sentences": Instruction(
        checks.sentence_number, {"num_sentences": NUMBER, "relation": RELATION}
    ),
    "length_constraints:number_paragraphs": Instruction(
        checks.paragraph_number, {"num_paragraphs": NUMBER}
    ),
    "length_constraints:number_words": Instruction(
        checks.word_number, {"num_words": NUMBER, "relation": RELATION}
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        checks.paragraph_first_word,
        {"num_paragraphs": NUMBER, "nth_paragraph": NUMBER, "first_word": TEXT},
    ),
    "detectable_content:number_placeholders": Instruction(
        checks.placeholder_number, {"num_placeholders": NUMBER}
    ),
    "detectable_content:postscript": Instruction(
        checks.has_postscript, {"postscript_marker": TEXT}
    ),
    "detectable_format:number_bullet_lists": Instruction(
        checks.bullet_number, {"num_bullets": NUMBER}
    ),
    "detectable_format:constrained_response": Instruction(checks.one_of_options),
    "detectable_format:number_highlighted_sections": Instruction(
        checks.highlight_number, {"num_highlights": NUMBER}
    ),
    "detectable_format:multiple_sections": Instruction(
        checks.section_number, {"section_spliter": TEXT, "num_sections": NUMBER}
    ),
    "detectable_format:json_format": Instruction(checks.is_json),
    "detectable_format:title": Instruction(checks.has_title),
    "combination:two_responses": Instruction(checks.two_responses),
    "combination:repeat_prompt": Instruction(checks.repeats_prompt, {"prompt_to_repeat": TEXT}),
    "startend:end_checker": Instruction(checks.ends_with, {"end_phrase": TEXT}),
    "startend:quotation": Instruction(checks.in_quotation),
    "change_case:capital_word_frequency": Instruction(
        checks.capital_word_frequency, {"capital_frequency": NUMBER, "capital_relation": RELATION}
    ),
    "change_case:english_capital": Instruction(checks.english_capital),
    "change_case:english_lowercase": Instruction(checks.english_lowercase),
    "punctuation:no_comma": Instruction(checks.no_comma),
}


def read_arguments(name: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an instruction, without those that are null.

    (Some copies of the data give every row the arguments of all instructions.)

    Raises:
      InputError: there is no such instruction, or it takes other arguments; says what was found
        and what was expected, beginning with the instruction's name.
    """
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        raise InputError(f"instruction {name!r}, expected one of {', '.join(INSTRUCTIONS)}")
    wanted = INSTRUCTIONS[name].arguments
    found = {key: value for key, value in given.items() if value is not None}
    for key, kind in wanted.items():
        if key not in found or not kind.fits(found[key]):
            value = f"{found[key]!r:.60}" if key in found else "nothing"
            raise InputError(f"{name}: {key} is {value}, expected {kind.words}")
    if surplus := found.keys() - wanted.keys():
        expected = ", ".join(wanted) or "none"
        raise InputError(f"{name}: argument {min(surplus)!r}, expected {expected}")
    return found
