import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation import optional
from overfill_jax.evaluation.bootstrap import interval
from overfill_jax.evaluation.tasks import wmt16
from overfill_jax.evaluation.tasks.question import Question
from overfill_jax.evaluation.tasks.wmt16 import WMT16, bleu, count_ngrams, read

sacrebleu = pytest.importorskip("sacrebleu")

GERMAN = ["Ein Hund rennt.", "Zwei Männer\u2028 sitzen.", "Ja!"]
ENGLISH = ["A dog is running.", "Two men are sitting.", "Yes!"]
ANSWERS = {
    "right": ENGLISH,
    "spaced": [f"  {line}\t" for line in ENGLISH],
    "near": ["A dog runs.", "Two men sit on a bench.", "Yes!"],
    "short": ["A dog", "Two", "Yes"],
    "long": [f"{line} And then some more words, really." for line in ENGLISH],
    "one empty": ["A dog is running.", "", "Yes!"],
    "foreign": ["Ein Hund", "二人の男", "Да!"],
    "markdown": ["**A dog** is running.", "* Two men are sitting.", "`Yes!`"],
    "repeated": ["A A A A A A", "men men men men", "! ! ! !"],
    "cased": ["a dog is running.", "TWO MEN ARE SITTING.", "yes!"],
}


def write(folder, name, german=GERMAN, english=ENGLISH):
    (folder / f"{name}.de").write_text("".join(f"{line}\n" for line in german), "utf-8")
    (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in english), "utf-8")
    return folder / f"{name}.de"


def test_prompts_are_the_harnesses(tmp_path):
    write(tmp_path, "val", ["Eins.", "Zwei.", "Drei."], ["One.", "Two.", "Three."])
    questions = read(write(tmp_path, "test"), 2)
    assert [question.gold for question in questions] == ENGLISH
    assert questions[0].messages == [
        {"role": "user", "content": "German phrase: Eins.\nEnglish phrase:"},
        {"role": "assistant", "content": " One."},
        {"role": "user", "content": "German phrase: Zwei.\nEnglish phrase:"},
        {"role": "assistant", "content": " Two."},
        {"role": "user", "content": "German phrase: Ein Hund rennt.\nEnglish phrase:"},
    ]
    # What Unicode alone takes for a line's end is a part of the sentence.
    assert questions[1].messages[-1]["content"] == (
        "German phrase: Zwei Männer\u2028 sitzen.\nEnglish phrase:"
    )


def test_without_shots_no_file_of_them_is_needed(tmp_path):
    assert [len(question.messages) for question in read(write(tmp_path, "test"), 0)] == [1, 1, 1]


# Reference, answer, and what is counted by hand: n-grams of 1 to 4 tokens that are the reference's,
# too, all n-grams, and the tokens of both.
DOG = "A dog is running."  # five tokens
COUNTS = [
    (DOG, DOG, (5, 4, 3, 2), (5, 4, 3, 2), 5, 5),
    (DOG, "", (0, 0, 0, 0), (0, 0, 0, 0), 0, 5),
    (DOG, " \t ", (0, 0, 0, 0), (0, 0, 0, 0), 0, 5),
    (DOG, "  A dog is running.\t", (5, 4, 3, 2), (5, 4, 3, 2), 5, 5),
    (DOG, "A dog is running .", (5, 4, 3, 2), (5, 4, 3, 2), 5, 5),
    (DOG, "A dog\u00a0is running.", (5, 4, 3, 2), (5, 4, 3, 2), 5, 5),
    (DOG, "A dog is run-\nning.", (5, 4, 3, 2), (5, 4, 3, 2), 5, 5),  # joined again
    (DOG, "A dog <skipped>is running.", (5, 4, 3, 2), (5, 4, 3, 2), 5, 5),  # an old mark of NIST's
    (DOG, "A dog is running", (4, 3, 2, 1), (4, 3, 2, 1), 4, 5),
    (DOG, "a dog is running.", (4, 3, 2, 1), (5, 4, 3, 2), 5, 5),
    (DOG, "A A A A A", (1, 0, 0, 0), (5, 4, 3, 2), 5, 5),  # counts as often as it may occur
    (DOG, ". running is dog A", (5, 0, 0, 0), (5, 4, 3, 2), 5, 5),
    (DOG, f"{DOG} {DOG}", (5, 4, 3, 2), (10, 9, 8, 7), 10, 5),
    (DOG, "Ein Hund rennt.", (1, 0, 0, 0), (4, 3, 2, 1), 4, 5),
    (DOG, "A dog-is running.", (3, 1, 0, 0), (4, 3, 2, 1), 4, 5),
    (DOG, "**A dog** is running.", (5, 3, 1, 0), (9, 8, 7, 6), 9, 5),
    (DOG, "A d\u043eg is running.", (4, 2, 1, 0), (5, 4, 3, 2), 5, 5),  # a Cyrillic o
    (DOG, "\u4e00\u5339\u72d7\u5728\u8dd1\u3002", (0, 0, 0, 0), (1, 0, 0, 0), 1, 5),
    ("Yes!", "Yes!", (2, 1, 0, 0), (2, 1, 0, 0), 2, 2),
    ("Yes!", "No!", (1, 0, 0, 0), (2, 1, 0, 0), 2, 2),
    ("Tom & Ann", "Tom &amp; Ann", (3, 2, 1, 0), (3, 2, 1, 0), 3, 3),
    ("I can't.", "I can\u2019t.", (2, 0, 0, 0), (3, 2, 1, 0), 3, 3),
    ("It costs 1,000.50 euros.", "It costs 1000.50 euros.", (4, 2, 0, 0), (5, 4, 3, 2), 5, 5),
    ('He said "yes".', "He said \u201cyes\u201d.", (3, 1, 0, 0), (4, 3, 2, 1), 4, 6),
    ("A caf\u00e9.", "A cafe\u0301.", (2, 0, 0, 0), (3, 2, 1, 0), 3, 3),
]


@pytest.mark.parametrize(("reference", "answer", "matching", "total", "length", "expected"), COUNTS)
def test_ngrams_are_counted(reference, answer, matching, total, length, expected):
    counts = count_ngrams(Question("1", [], reference), answer)
    assert counts == [*matching, *total, length, expected]


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
def test_bleu_is_sacrebleus(tmp_path, answers):
    questions = read(write(tmp_path, "test"), 0)
    counts = np.array([count_ngrams(*pair) for pair in zip(questions, answers, strict=True)])
    expected = sacrebleu.corpus_bleu(answers, [ENGLISH]).score
    assert bleu(counts.sum(axis=0)) == expected
    assert WMT16.verdict(questions[0], answers[0]) == {}


def test_signature_is_sacrebleus():
    metric = sacrebleu.BLEU()
    metric.corpus_score(ENGLISH, [ENGLISH])
    assert WMT16.signature() == str(metric.get_signature())
    assert WMT16.signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_known_scores(tmp_path):
    questions = read(write(tmp_path, "test"), 0)
    for answers, score in ((ENGLISH, 100.0), ([""] * 3, 0.0), (["x"] * 3, 0.0)):
        counts = [count_ngrams(*pair) for pair in zip(questions, answers, strict=True)]
        assert bleu(np.sum(counts, axis=0)) == pytest.approx(score)


def test_bleu_and_its_interval_on_multi30k(shared_data):
    """On 1,000 sentences with words left out: its score, and its interval but for chance."""
    questions = read(shared_data / "multi30k" / "test_2016_flickr.de", 4)
    assert len(questions) == 1000 and len(questions[0].messages) == 9
    rng = np.random.default_rng(0)
    references = [question.gold for question in questions]
    answers = [" ".join(w for w in text.split() if rng.random() > 0.2) for text in references]
    counts = np.array([count_ngrams(*pair) for pair in zip(questions, answers, strict=True)])
    theirs = sacrebleu.metrics.BLEU().corpus_score(answers, [references], n_bootstrap=1000)
    assert bleu(counts.sum(axis=0)) == theirs.score
    low, high = interval(counts, bleu)
    assert low < theirs.score < high
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.15)


@pytest.mark.parametrize(
    "german, english, message",
    [
        (GERMAN, ENGLISH[:2], r"test\.en: found 2 lines, expected 3, as in test\.de"),
        (["Ja.", " ", "Nein."], ENGLISH, r"test\.de:2: found a blank line, expected a sentence"),
        (GERMAN, ["a", "b", ""], r"test\.en:3: found a blank line"),
        ([], [], r"test\.de:1: found a blank line"),
    ],
)
def test_unequal_or_blank_lines_are_named(tmp_path, german, english, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, "test", german, english), 0)


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = write(tmp_path, "test")
    with pytest.raises(InputError, match=r"val\.de: cannot be read"):
        read(path, 4)
    with pytest.raises(InputError, match=r"test\.en: found another text, expected German, .*\.de"):
        read(path.with_suffix(".en"), 0)
    path.with_suffix(".en").unlink()
    with pytest.raises(InputError, match=r"test\.en: cannot be read"):
        read(path, 0)
    path.write_bytes(b"K\xf6ln\n")
    with pytest.raises(InputError, match=r"test\.de: found bytes that are not UTF-8"):
        read(path, 0)


def test_more_shots_than_lines_are_refused(tmp_path):
    write(tmp_path, "val")
    with pytest.raises(InputError, match=r"score\.shots: found 4, expected 0 to 3"):
        read(write(tmp_path, "test"), 4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    wmt16._metric.cache_clear()
    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"task wmt16: found no sacrebleu.*\[evaluation\]"):
        read(write(tmp_path, "test"), 0)
