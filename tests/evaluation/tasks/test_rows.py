import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.registry import BENCHMARKS, find_benchmark
from overfill_jax.evaluation.tasks.rows import read_rows

FIELDS = {"question": str, "answer": int}
# Of the extra `evaluation`, by task.
PACKAGES = {
    "math": ("math_verify",),
    "ifeval": ("langdetect", "nltk", "punkt"),
    "wmt16": ("sacrebleu",),
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "found not JSON"),
        ("[1]", "found a JSON list, expected an object"),
        ("\xff", "found not UTF-8"),
        ('{"question": "q"}', "found no 'answer', expected one of type int"),
        ('{"question": 1, "answer": 1}', "found 'question' is 1, expected str"),
        ('{"question": "q", "answer": true}', "found 'answer' is True, expected int"),
        ('{"question": "q", "answer": null}', "found 'answer' is None, expected int"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, line, message):
    file = tmp_path / "rows.jsonl"
    good = '{"question": "q", "answer": 1, "more": []}\n\n'
    file.write_bytes(good.encode() + line.encode("latin-1"))
    with pytest.raises(InputError, match=r"rows.jsonl:3: ") as error:
        list(read_rows(file, FIELDS))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"rows.jsonl: found no rows, expected at least one"):
        list(read_rows(tmp_path / "rows.jsonl", FIELDS))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_file_is_refused(tmp_path, name):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    with pytest.raises(InputError, match=r"none.jsonl: cannot be read \(No such file"):
        BENCHMARKS[name].read(tmp_path / "none.jsonl", 0)


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown task 'gsm8'; did you mean 'gsm8k'\? Expected"):
        find_benchmark("gsm8")


def test_a_task_that_is_like_no_other_is_refused_with_all():
    with pytest.raises(InputError, match=r"score\.task: unknown task 'x'\. Expected one of"):
        find_benchmark("x")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_names_are_those_of_the_registry(name):
    assert find_benchmark(name).name == name
