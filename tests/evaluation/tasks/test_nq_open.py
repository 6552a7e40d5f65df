import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.nq_open import NQ_OPEN
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks.files import write_rows

MOON = ["14 December 1972 UTC", "December 1972"]
# Golds, answer, and whether it is right.
ANSWERS = [
    (MOON, " December 1972", True),
    (MOON, " december 1972", True),
    (MOON, "14 December 1972 UTC", True),
    (MOON, "14  December\t1972 UTC ", True),
    (MOON, " December, 1972", True),
    (MOON, "in December 1972", False),
    (MOON, "1972", False),
    (MOON, "December", False),
    (MOON, "December 1972 or 1973", False),
    (MOON, "", False),
    (MOON, "...", False),
    (["The Beatles"], " the Beatles", True),
    (["The Beatles"], "Beatles", True),
    (["The Beatles"], "An Beatles", True),
    (["The Beatles"], "Theo Beatles", False),
    (["Theatre"], "atre", False),
    (["a"], "a", True),
    (["a"], "", False),
    (["St. Louis"], "St Louis", True),
    (["---"], "", False),
    (["---"], "...", False),
    (["---"], "anything", False),
    (["---"], " ---", True),
    ([")"], "", False),
    (["a rotationally symmetric saltire", "*"], "*", True),
    (["a rotationally symmetric saltire", "*"], "x", False),
    (["a rotationally symmetric saltire", "*"], "", False),
    (["Beyonc\u00e9"], "beyonc\u00e9", True),
    (["Beyonc\u00e9"], "beyonce", False),
    (["7"], "seven", False),
]


@pytest.mark.parametrize(("golds", "answer", "right"), ANSWERS)
def test_verdicts(golds, answer, right):
    assert NQ_OPEN.verdict(Question("1", [], golds), answer) == {"exact_match": right}


ROWS = [{"question": f"question {n}", "answer": [f"{n}", "x"]} for n in range(1, 4)]


def test_shots_are_training_rows(tmp_path):
    write_rows(tmp_path, [{"question": "trained", "answer": ["yes"]}], "train.jsonl")
    questions = NQ_OPEN.read(write_rows(tmp_path, ROWS, "dev.jsonl"), 1)
    assert len(questions) == 3
    assert questions[0].messages == [
        {"role": "system", "content": "Answer these questions:\n\n"},
        {"role": "user", "content": "Q: trained?\nA:"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "Q: question 1?\nA:"},
    ]


def test_without_training_rows_the_first_are_shots_and_not_asked(tmp_path):
    questions = NQ_OPEN.read(write_rows(tmp_path, ROWS, "dev.jsonl"), 2)
    assert [question.id for question in questions] == ["3"]
    assert questions[0].messages[2]["content"] == "1"
    assert len(NQ_OPEN.read(tmp_path / "dev.jsonl", 0)) == 3


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"too few rows for score.shots=3 and a question"):
        NQ_OPEN.read(write_rows(tmp_path, ROWS, "dev.jsonl"), 3)
    write_rows(tmp_path, ROWS[:1], "train.jsonl")
    with pytest.raises(InputError, match=r"train\.jsonl: found 1 rows, expected 3 for score.shots"):
        NQ_OPEN.read(tmp_path / "dev.jsonl", 3)


@pytest.mark.parametrize("answer", [[], "yes", [1], [""]])
def test_a_malformed_row_is_named_by_its_line(tmp_path, answer):
    rows = [*ROWS, {"question": "?", "answer": answer}]
    with pytest.raises(InputError, match=r"dev.jsonl:4: found"):
        NQ_OPEN.read(write_rows(tmp_path, rows, "dev.jsonl"), 0)


def test_reads_the_published_set(shared_data):
    questions = NQ_OPEN.read(shared_data / "nq_open" / "dev.jsonl", NQ_OPEN.shots)
    assert len(questions) == 3610 - 4
    assert not any(NQ_OPEN.verdict(question, "")["exact_match"] for question in questions)
