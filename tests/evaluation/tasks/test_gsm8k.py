import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.gsm8k import GSM8K
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks.files import write_rows

# Gold, answer, and whether it is right strictly and flexibly.
ANSWERS = [
    ("18", "She sells 9 eggs. 9 * 2 = 18. The final answer is 18", True, True),
    ("18", "The final answer is 18.", True, True),
    ("18", "The final answer is $18", True, True),
    ("18", "The final answer is $18.", True, True),
    ("1000", "The final answer is 1,000", True, True),
    ("1450000", "The final answer is $1,450,000 in all.", True, True),
    ("-10", "The final answer is -10", True, True),
    ("-3", "It fell, so the final answer is -3", False, True),
    ("18", "The final answer is 17. No: The final answer is 18", True, True),
    ("18", "The final answer is 18. No: The final answer is 17", False, False),
    ("18", "The final answer is 18 of 20", True, False),
    ("18", "18", False, True),
    ("18", "#### 18", False, True),
    ("18", "the final answer is 18", False, True),
    ("18", "The final answer is **18**", False, True),
    ("18", "The final answer is 18.00", False, False),
    ("18", "The final answer is 018", False, False),
    ("18", "The final answer is 180", False, False),
    ("18", "The final answer is -18", False, False),
    ("18", "The final answer is eighteen", False, False),
    ("18", "The final answer is\n18", False, True),
    ("18", "The final answer is 9 * 2 = 18", False, True),
    ("8", "The final answer is 8", True, True),
    ("8", "The final answer is 8%", True, True),
    ("18", "", False, False),
    ("18", "\ufffd\ufffd . , $ - ...", False, False),
    ("18", "The final answer is " * 40 + "18", True, True),
]


@pytest.mark.parametrize(("gold", "answer", "strict", "flexible"), ANSWERS)
def test_verdicts(gold, answer, strict, flexible):
    marks = GSM8K.verdict(Question("1", [], gold), answer)
    assert marks == {"strict": strict, "flexible": flexible}


def test_shots_are_turns_before_the_question(tmp_path):
    file = write_rows(tmp_path, [{"question": "How many?", "answer": "Many.\n#### 1,600"}])
    (question,) = GSM8K.read(file, 2)
    assert [m["role"] for m in question.messages] == ["user", "assistant"] * 2 + ["user"]
    assert question.messages[1]["content"].endswith("The final answer is 6")
    assert "Problem: How many?\n" in question.messages[-1]["content"]
    assert question.gold == "1600"


def test_shots_are_answered_right(tmp_path):
    file = write_rows(tmp_path, [{"question": "How many?", "answer": "#### 1"}])
    (question,) = GSM8K.read(file, 8)
    shots = [m for m in question.messages if m["role"] == "assistant"]
    assert len(shots) == 8
    for message in shots:
        gold = message["content"].split()[-1]
        assert GSM8K.verdict(Question("1", [], gold), message["content"])["strict"] == 1


@pytest.mark.parametrize("shots", [-1, 9])
def test_refuses_shots_that_are_not_there(tmp_path, shots):
    file = write_rows(tmp_path, [{"question": "How many?", "answer": "#### 1"}])
    with pytest.raises(InputError, match=rf"score.shots: found {shots}, expected 0 to 8"):
        GSM8K.read(file, shots)


def test_refuses_a_row_without_its_number(tmp_path):
    rows = [{"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "about 2"}]
    with pytest.raises(InputError, match=r"rows.jsonl:2: found no whole number behind ####"):
        GSM8K.read(write_rows(tmp_path, rows), 0)


def test_reads_the_published_set(shared_data):
    questions = GSM8K.read(shared_data / "gsm8k" / "test.jsonl", GSM8K.shots)
    assert len(questions) == 1319
    assert len({question.id for question in questions}) == 1319
