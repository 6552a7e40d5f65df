import json

import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation import optional
from overfill_jax.evaluation.tasks import text_units
from overfill_jax.evaluation.tasks.ifeval import (
    IFEVAL,
    follows,
    follows_loosely,
    read,
    variants,
    verdict,
)
from overfill_jax.evaluation.tasks.instructions import INSTRUCTIONS
from overfill_jax.evaluation.tasks.question import Question

for package in ("langdetect", "nltk", "punkt"):
    pytest.importorskip(package)

QUOTED = ("startend:quotation", {})
NO_COMMA = ("punctuation:no_comma", {})
JSON = ("detectable_format:json_format", {})
TITLE = ("detectable_format:title", {})
BULLETS = ("detectable_format:number_bullet_lists", {"num_bullets": 2})


def asked(*instructions) -> Question:
    return Question("1", [], list(instructions))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {
    "key": 7,
    "prompt": "Write.",
    "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
    "kwargs": [{"keywords": None}, {"keywords": ["cat"], "relation": None}],
}


def test_eight_variants():
    assert variants("a*\n b \nc") == ["a*\n b \nc", "b \nc", "a*\n b", "b", "a\n b \nc", "b \nc",
                                      "a\n b", "b"]  # fmt: skip
    assert variants("*one line*") == ["*one line*", "", "", "", "one line", "", "", ""]
    assert variants("") == [""] * 8


# Instruction, answer, and whether it is followed strictly and loosely.
LOOSELY = [
    (QUOTED, '"Yes."', True, True),
    (QUOTED, 'Sure:\n"Yes."', False, True),  # without the first line
    (QUOTED, '"Yes."\nBye.', False, True),  # without the last
    (QUOTED, 'Sure:\n"Yes."\nBye.', False, True),  # without both
    (QUOTED, '**"Yes."**', False, True),  # without asterisks
    (QUOTED, 'Sure:\n**"Yes."**\nBye.', False, True),
    (QUOTED, 'Sure:\nwell:\n"Yes."', False, False),  # of two lines only one goes
    (NO_COMMA, "Yes, sure.\nNo comma here.", False, True),
    (NO_COMMA, "a, b", False, False),  # nothing is left of a single line
    (NO_COMMA, "a, b\n", False, False),
    (JSON, "Here it is:\n[1]\nDone.", False, True),
    (TITLE, "*<<a*b>>*", True, True),
    (TITLE, "<*<a>*>", False, True),
    (BULLETS, "* a\n* b\n* c", False, True),
    (BULLETS, "* a\n* b", True, True),
    (QUOTED, "", False, False),
    (NO_COMMA, " \n ", False, False),
    (NO_COMMA, "*\n*", True, True),
    (NO_COMMA, "**", True, True),
    (JSON, "```json\n{}\n```", True, True),
]


@pytest.mark.parametrize("instruction, answer, strict, loose", LOOSELY)
def test_loosely(instruction, answer, strict, loose):
    question = asked(instruction)
    assert follows(question, answer) == [strict]
    assert follows_loosely(question, answer) == [loose]


def test_a_prompt_wants_all_its_instructions():
    question = asked(QUOTED, NO_COMMA, TITLE)
    marks = verdict(question, '"<<A>>"')
    assert marks == {"prompt_strict": 1.0, "prompt_loose": 1.0}
    assert verdict(question, '"a"') == {"prompt_strict": 0.0, "prompt_loose": 0.0}
    # Each instruction may be followed by another variant of the answer.
    mixed = '"<<A>>"\nso, bye'
    assert follows(question, mixed) == [False, False, True]
    assert verdict(question, mixed) == {"prompt_strict": 0.0, "prompt_loose": 1.0}


def test_accuracy_of_instructions_counts_each():
    answers = [(asked(QUOTED, NO_COMMA, TITLE), '"a"'), (asked(NO_COMMA), "a, b\nc")]
    for name, share in (("instruction_strict", 2 / 4), ("instruction_loose", 3 / 4)):
        metric = IFEVAL.whole[name]
        sums = np.sum([metric.count(*answer) for answer in answers], axis=0, dtype=float)
        assert metric.score(sums) == share


def test_reads_the_published_format(tmp_path):
    (question,) = read(write(tmp_path / "a.jsonl", ROW), 0)
    assert question.messages == [{"role": "user", "content": "Write."}]
    assert question.gold == [NO_COMMA, ("keywords:existence", {"keywords": ["cat"]})]
    assert follows(question, "My cat, my dog") == [False, True]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": 3}, "'prompt' is 3, expected str"),
        ({"kwargs": [{}]}, "2 in 'instruction_id_list' and 1 in 'kwargs', expected as many"),
        ({"kwargs": [], "instruction_id_list": []}, "0 in .* at least one"),
        ({"kwargs": [None, {}]}, "None in 'kwargs', expected objects"),
        ({"instruction_id_list": ["a:b", "c:d"]}, "instruction 'a:b', expected one of"),
        ({"kwargs": [{}, {"keywords": [""]}]}, r"keywords:existence: keywords is \[''\], expected"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, message):
    path = write(tmp_path / "rows.jsonl", ROW, ROW | change)
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: found {message}"):
        read(path, 0)


def test_has_no_shots(tmp_path):
    with pytest.raises(InputError, match=r"score\.shots: found 4, expected 0 to 0"):
        read(write(tmp_path / "a.jsonl", ROW), 4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"task ifeval: found no langdetect.*\[evaluation\]"):
        read(write(tmp_path / "a.jsonl", ROW), 0)


def test_language_is_the_same_each_time():
    found = {text_units.detect_language("Hotel Bar Taxi") for _ in range(20)}
    assert len(found) == 1
    assert text_units.detect_language("123 ...") is None


def test_the_published_rows(shared_data):
    """Verdicts on the prompts, taken as answers: those of the harness's program, as counted there.

    (Without the two rows that want `#` and `!`: it puts another letter, at random, in their place.)
    """
    questions = read(shared_data / "ifeval" / "input_data.jsonl", 0)
    assert len(questions) == 541
    named = [name for question in questions for name, _ in question.gold]
    assert len(named) == 834 and set(named) == set(INSTRUCTIONS)
    judged = [q for q in questions if all(a.get("letter") not in ("#", "!") for _, a in q.gold)]
    prompts = [question.messages[-1]["content"] for question in judged]
    strict = [follows(*pair) for pair in zip(judged, prompts, strict=True)]
    loose = [follows_loosely(*pair) for pair in zip(judged, prompts, strict=True)]
    assert (len(judged), sum(map(all, strict)), sum(map(all, loose))) == (539, 134, 161)
    assert (sum(map(sum, strict)), sum(map(sum, loose))) == (299, 341)
