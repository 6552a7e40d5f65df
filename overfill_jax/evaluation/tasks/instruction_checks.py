"""IFEval's 25 checks: whether an answer follows an instruction (Zhou et al., arXiv 2311.07911).

As the authors' program (google-research, instruction_following_eval) judges, which is more lenient
in places than the instruction reads: a highlight in bold counts as one in italics does, sections
may be more than asked for. Keywords, postscripts and words of sections are texts here, no patterns;
the published data has none for which this makes a difference. A letter is the one that is given, in
two published rows `#` and `!`, for which that program draws one at random. Parameters are named as
the data names them.
"""

import json
import re
from collections.abc import Sequence

from overfill_jax.evaluation.tasks.text_units import (
    count_capital_words,
    count_sentences,
    count_words,
    detect_language,
)

RELATIONS = ("less than", "at least")
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _holds(found: int, relation: str, number: int) -> bool:
    return found < number if relation == "less than" else found >= number


def has_keywords(answer: str, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, in capitals or not, be it within a word."""
    return all(re.search(re.escape(word), answer, re.IGNORECASE) for word in keywords)


def keyword_frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword occurs so often, in capitals or not, within words as well."""
    found = re.findall(re.escape(keyword.strip()), answer, re.IGNORECASE)
    return _holds(len(found), relation, frequency)


def lacks_words(answer: str, forbidden_words: Sequence[str]) -> bool:
    """None of the words stands in the answer, in capitals or not; within a word it may."""
    return not any(
        re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in forbidden_words
    )


def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The letter, or other character, occurs so often, small or capital."""
    return _holds(answer.lower().count(letter.lower()), let_relation, let_frequency)


def in_language(answer: str, language: str) -> bool:
    """All in all in that language; an answer without letters counts as in any."""
    return detect_language(answer) in (language, None)


def sentence_number(answer: str, num_sentences: int, relation: str) -> bool:
    """So many sentences."""
    return _holds(count_sentences(answer), relation, num_sentences)


def paragraph_number(answer: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between dividers `***`, which may open and close the answer."""
    pieces = [piece.strip() for piece in re.split(r"\s?\*{3}\s?", answer)]
    return all(pieces[1:-1]) and sum(map(bool, pieces)) == num_paragraphs


def word_number(answer: str, num_words: int, relation: str) -> bool:
    """So many words."""
    return _holds(count_words(answer), relation, num_words)


def paragraph_first_word(
    answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Exactly so many paragraphs between empty lines, and the n-th begins with the word.

    Paragraphs without text do not count, but take up a number.
    """
    pieces = [piece.strip() for piece in answer.split("\n\n")]
    found = sum(map(bool, pieces))
    if found != num_paragraphs or nth_paragraph > found or not pieces[nth_paragraph - 1]:
        return False
    word = pieces[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"""[.,?!'"]""", word)[0].lower() == first_word.lower()


def placeholder_number(answer: str, num_placeholders: int) -> bool:
    """At least so many pairs of square brackets, each within a line."""
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def has_postscript(answer: str, postscript_marker: str) -> bool:
    """The marker occurs, in capitals or not; of "P.S." and "P.P.S" with spaces between as well."""
    marker = postscript_marker.strip()
    pattern = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}.get(
        marker, re.escape(marker.lower())
    )
    return re.search(pattern, answer.lower()) is not None


def bullet_number(answer: str, num_bullets: int) -> bool:
    """Exactly so many lines that begin with one asterisk or with a dash."""
    asterisks = re.findall(r"^\s*\*[^*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(asterisks) + len(dashes) == num_bullets


def one_of_options(answer: str) -> bool:
    """One of the three answers of the instruction occurs."""
    return any(option in answer for option in OPTIONS)


def highlight_number(answer: str, num_highlights: int) -> bool:
    """At least so many texts within a line between single or double asterisks."""
    single = re.findall(r"\*([^\n*]*)\*", answer)
    double = re.findall(r"\*\*([^\n*]*)\*\*", answer)
    return sum(bool(text.strip()) for text in single + double) >= num_highlights


def section_number(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings, of the given word and a number."""
    heading = re.escape(section_spliter.strip())
    return len(re.findall(rf"{heading}\s?\d+", answer)) >= num_sections


def is_json(answer: str) -> bool:
    """All in all JSON, which may stand in a fenced block."""
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(answer: str) -> bool:
    """A text within a line between double angular brackets."""
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", answer))


def two_responses(answer: str) -> bool:
    """Two different texts between dividers `******`, which may open and close the answer."""
    pieces = [piece.strip() for piece in answer.split("******")]
    texts = [piece for piece in pieces if piece]
    return all(pieces[1:-1]) and len(texts) == 2 and texts[0] != texts[1]


def repeats_prompt(answer: str, prompt_to_repeat: str) -> bool:
    """Begins with the request, in capitals or not."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(answer: str, end_phrase: str) -> bool:
    """Ends with the phrase, in capitals or not; quotation marks may follow."""
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words all in capitals."""
    return _holds(count_capital_words(answer), capital_relation, capital_frequency)


def english_capital(answer: str) -> bool:
    """English, as far as one can tell, with capitals and without a small letter."""
    return answer.isupper() and in_language(answer, "en")


def english_lowercase(answer: str) -> bool:
    """English, as far as one can tell, with small letters and without a capital."""
    return answer.islower() and in_language(answer, "en")


def no_comma(answer: str) -> bool:
    """No comma of the Latin script."""
    return "," not in answer


def in_quotation(answer: str) -> bool:
    """All in all between straight double quotation marks."""
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'
