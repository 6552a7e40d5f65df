import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.choice import ARC, ARC_RANKED, MMLU, MMLU_RANKED, MMLU_REDUX
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks.files import write_rows

# Gold, answer behind "The best answer is", and whether it is right.
LETTERS = [
    ("B", " B", True),
    ("B", "B", True),
    ("B", " b", True),
    ("B", " B\n", True),
    ("B", " (B)", True),
    ("B", " **B**", True),
    ("B", ' "B"', True),
    ("B", " B)", True),
    ("B", " [B]", True),
    ("B", ": B", False),  # a space is left behind the punctuation, as in the harness
    ("B", " A", False),
    ("B", " BB", False),
    ("B", " B C", False),
    ("B", " B, C", False),
    ("B", " B because it is so", False),
    ("B", " not B", False),
    ("B", " the second", False),
    ("B", " 2", False),
    ("B", " \u0412", False),  # Cyrillic
    ("B", "", False),
    ("B", " ", False),
    ("B", "...", False),
    ("A", " a", True),
    ("E", " E", True),
]
# The same for answers that stand by themselves, of which the first capital counts.
FIRST_LETTERS = [
    ("B", "B", True),
    ("B", "B.", True),
    ("B", "(B)", True),
    ("B", " B ", True),
    ("B", "**B**", True),
    ("B", "the answer is B", True),
    ("B", "The answer is B", True),
    ("B", "B\n\nbecause C is wrong", True),
    ("B", "B or C", True),
    ("B", "4. B", True),
    ("B", "Because it is so, B", True),  # of its first letter, as in the harness
    ("D", "Because it is so, D", False),
    ("B", "Answer: B", False),
    ("A", "Answer: B", True),
    ("B", "b", False),
    ("B", "E", False),
    ("B", "C or B", False),
    ("B", "the second", False),
    ("B", "2", False),
    ("B", "\u0412", False),
    ("B", "", False),
    ("B", "\n", False),
]
DEVELOPMENT = [
    {"subject": "logic", "question": " Dev 1? ", "choices": ["a", "b", "c", "d"], "answer": 0},
    {"subject": "world-religions", "question": "Dev 2?", "choices": list("efgh"), "answer": 1},
    {"subject": "logic", "question": "Dev 3?", "choices": list("ijkl"), "answer": 2},
]
TEST = [
    {"subject": "logic", "question": " Who? ", "choices": ["I", "you", "we", "{x}"], "answer": 3},
    {"subject": "world-religions", "question": "Why?", "choices": list("mnop"), "answer": 2},
]


@pytest.mark.parametrize(("gold", "answer", "right"), LETTERS)
@pytest.mark.parametrize("benchmark", [ARC, MMLU], ids=lambda b: b.name)
def test_verdicts(benchmark, gold, answer, right):
    assert benchmark.verdict(Question("1", [], gold), answer) == {"exact_match": right}


@pytest.mark.parametrize(("gold", "answer", "right"), FIRST_LETTERS)
def test_verdicts_by_first_letter(gold, answer, right):
    assert MMLU_REDUX.verdict(Question("1", [], gold), answer) == {"exact_match": right}


@pytest.fixture
def files(tmp_path):
    write_rows(tmp_path, DEVELOPMENT, "dev.jsonl")
    return write_rows(tmp_path, TEST, "test.jsonl")


def test_shots_are_of_the_subject(files):
    first, second = MMLU.read(files, 1)
    assert [m["role"] for m in first.messages] == ["user", "assistant", "user"]
    assert "Dev 1?\nA. a\nB. b\nC. c\nD. d\nYour response" in first.messages[0]["content"]
    assert first.messages[1]["content"] == "The best answer is A."
    assert "Question: Who?\nA. I\nB. you\nC. we\nD. {x}\n" in first.messages[2]["content"]
    assert (first.prefix, first.gold, first.group) == ("The best answer is", "D", "logic")
    assert second.messages[1]["content"] == "The best answer is B."
    assert second.group == "world-religions"


def test_too_few_shots_of_a_subject_are_refused(files):
    with pytest.raises(InputError, match=r"dev.jsonl: found 1 rows of subject 'world-religions'"):
        MMLU.read(files, 2)


def test_shots_need_a_file_of_them(tmp_path):
    with pytest.raises(InputError, match=r"dev.jsonl: cannot be read"):
        MMLU.read(write_rows(tmp_path, TEST, "test.jsonl"), 1)
    with pytest.raises(InputError, match="found no 'test' in its name"):
        MMLU.read(write_rows(tmp_path, TEST, "rows.jsonl"), 1)


PLAIN = ("no", "perhaps", "yes, it is")  # 2, 7 and 10 characters
NAN, NEVER = float("nan"), float("-inf")
# Choices, the right one, their log-likelihoods, and whether the likeliest is right, and the
# likeliest by its length.
RANKINGS = [
    (PLAIN, 2, (-3.0, -2.0, -1.0), True, True),
    (PLAIN, 2, (-1.0, -2.0, -3.0), False, False),  # -0.5, -0.286 and -0.3 a character
    (PLAIN, 2, (-1.0, -2.0, -2.8), False, True),
    (PLAIN, 2, (-1.0, -1.0, -1.0), False, True),
    (PLAIN, 2, (-1.0, -2.0, -0.9), True, True),
    (PLAIN, 2, (-0.1, -9.0, -1.0), False, False),
    (PLAIN, 2, (-9.0, -0.1, -1.0), False, False),
    (PLAIN, 2, (-100.0, -200.0, -280.0), False, True),
    (PLAIN, 0, (-1.0, -2.0, -3.0), True, False),
    (PLAIN, 0, (-0.1, -2.0, -3.0), True, True),
    (PLAIN, 1, (-1.0, -2.0, -3.0), False, True),
    (PLAIN, 0, (-1.0, -1.0, -1.0), True, False),  # of equals the first
    (PLAIN, 0, (0.0, 0.0, 0.0), True, True),
    (PLAIN, 1, (0.0, 0.0, 0.0), False, False),
    (PLAIN, 1, (NEVER, -1e30, NEVER), True, True),
    (PLAIN, 0, (NEVER, -1e30, -1e31), False, False),
    (PLAIN, 2, (-2.0000001, -2.0000001, -2.0), True, True),
    (PLAIN, 0, (NAN, NAN, NAN), False, False),  # a broken model has no answer
    (PLAIN, 1, (-1.0, NAN, -3.0), False, False),
    (PLAIN, 2, (-9.0, NAN, -0.1), False, False),
    (("a", "b", "a"), 2, (-1.0, -2.0, -1.0), False, False),  # twice the same text: the first
    (("a", "b", "a"), 0, (-1.0, -2.0, -1.0), True, True),
    (("\u00fc\u00fc", "abc"), 0, (-2.0, -2.9), True, False),  # characters, not bytes
    (("e\u0301", "abcd"), 0, (-1.0, -2.0), True, True),  # of two characters
    (("x", "x" * 1000), 0, (-1.0, -999.0), True, False),
    (("one", "two", "three", "four", "five"), 4, (-5.0, -4.0, -3.0, -2.0, -1.0), True, True),
    (("1 ", "2"), 1, (-1.5, -1.0), True, False),  # spaces count
]


@pytest.mark.parametrize(("choices", "gold", "found", "likeliest", "by_length"), RANKINGS)
def test_rankings(choices, gold, found, likeliest, by_length):
    question = Question("1", [], gold, choices=choices)
    assert ARC_RANKED.verdict(question, found) == {"acc": likeliest, "acc_norm": by_length}
    assert MMLU_RANKED.verdict(question, found) == {"acc": likeliest}


def test_ranked_choices_are_letters_or_texts(files):
    (first, _) = MMLU_RANKED.read(files, 1)
    assert first.choices == ("A", "B", "C", "D")
    assert (first.gold, first.prefix) == (3, "")
    assert first.messages[0]["content"].endswith("about logic.\n\n")
    assert first.messages[2]["content"] == "A"
    assert first.messages[3]["content"] == "Who?\nA. I\nB. you\nC. we\nD. {x}\nAnswer:"
    (first, _) = ARC_RANKED.read(files, 1)
    assert first.choices == ("I", "you", "we", "{x}")
    assert [m["content"] for m in first.messages] == [
        "Question: Dev 1?\nAnswer:",
        "a",
        "Question: Who?\nAnswer:",
    ]


def test_redux_leaves_out_what_its_authors_found_wrong(tmp_path):
    rows = [
        TEST[0] | {"error_type": "ok"},
        TEST[0] | {"error_type": "wrong_groundtruth"},
        TEST[1],
    ]
    write_rows(tmp_path, DEVELOPMENT, "dev.jsonl")
    questions = MMLU_REDUX.read(write_rows(tmp_path, rows, "test.jsonl"), 1)
    assert [question.id for question in questions] == ["1", "3"]
    system, _, told, asked = questions[1].messages
    assert system["role"] == "system"
    assert system["content"].endswith("about world religions.\n\n")
    assert told["content"] == "B"
    assert asked["content"].startswith("Why?\nA. m\nB. n\nC. o\nD. p\nPlease respond")
    assert questions[1].prefix == ""


def test_redux_of_wrong_rows_alone_is_refused(tmp_path):
    file = write_rows(tmp_path, [TEST[0] | {"error_type": "bad"}], "test.jsonl")
    with pytest.raises(InputError, match="found no row whose error_type is ok"):
        MMLU_REDUX.read(file, 0)


def test_arc_asks_three_to_five_choices(tmp_path):
    rows = [
        {"question": "Q?", "choices": list("abc"), "answer": 2},
        {"question": "Q?", "choices": list("abcde"), "answer": 4},
    ]
    three, five = ARC.read(write_rows(tmp_path, rows), ARC.shots)
    assert three.messages[0]["content"].count("\\n") == 5
    assert "\n" not in three.messages[0]["content"]
    assert "C. c\\nYour response" in three.messages[0]["content"]
    assert "D. d\\nYour response" in five.messages[0]["content"]
    assert (three.gold, five.gold) == ("C", "E")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a", "b"]}, "found choices ['a', 'b'], expected 4 texts"),
        ({"choices": ["a", "b", "c", 4]}, "found choices ['a', 'b', 'c', 4], expected 4 texts"),
        ({"answer": 4}, "found answer 4, expected the index of one of 4 choices"),
        ({"answer": -1}, "found answer -1, expected the index of one of 4 choices"),
        ({"answer": "A"}, "found 'answer' is 'A', expected int"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, change, message):
    file = write_rows(tmp_path, [TEST[0], TEST[1] | change], "test.jsonl")
    with pytest.raises(InputError, match=r"test.jsonl:2: ") as error:
        MMLU.read(file, 0)
    assert message in str(error.value)


def test_reads_the_published_sets(shared_data):
    assert len(MMLU.read(shared_data / "mmlu" / "test.jsonl", MMLU.shots)) == 14042
    arc = shared_data / "arc" / "arc-challenge.test.jsonl"
    assert len(ARC.read(arc, ARC.shots)) == 1172
    assert len(ARC.read(arc, 4)[0].messages) == 9
