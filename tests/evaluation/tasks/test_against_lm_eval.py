"""Prompts and verdicts against lm-eval's own, where that package and the sets are at hand."""

import json
from pathlib import Path

import pytest

from overfill_jax.evaluation.tasks import registry
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks import test_choice, test_gsm8k, test_nq_open
from tests.evaluation.tasks.files import write_rows

lm_eval = pytest.importorskip("lm_eval")
yaml = pytest.importorskip("yaml")

DESCRIPTION = "The following are multiple choice questions (with answers) about anatomy.\n\n"
# Of each of ours: its file in lm-eval, and what that leaves to the files that include it.
THEIRS = {
    "gsm8k": ("gsm8k/gsm8k-cot-llama.yaml", {}),
    "arc_challenge": ("arc/arc_challenge_chat.yaml", {}),
    "arc_challenge_likelihood": ("arc/arc_easy.yaml", {}),
    "mmlu": ("llama3/instruct/mmlu/_continuation_template_yaml", {}),
    "mmlu_likelihood": (
        "mmlu/default/_default_template_yaml",
        {"description": DESCRIPTION, "task": "mmlu_anatomy"},
    ),
    "mmlu_redux": (
        "mmlu-redux/generative/_default_template_yaml",
        {"description": DESCRIPTION, "task": "mmlu_redux_anatomy", "fewshot_split": "dev"},
    ),
    "nq_open": ("nq_open/nq_open.yaml", {}),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_task(name: str, shots: int, splits: dict[str, Path]):
    """lm-eval's task of one of ours, on local files."""
    from lm_eval.api.task import ConfigurableTask

    file, more = THEIRS[name]
    config = load_config(Path(lm_eval.__file__).parent / "tasks" / file) | more
    config |= {"dataset_path": "json", "num_fewshot": shots}
    config.pop("dataset_name", None)
    config["dataset_kwargs"] = {"data_files": {split: str(file) for split, file in splits.items()}}
    # lm-eval draws shots at random where it is not told to take the first.
    config["fewshot_config"] = (config.get("fewshot_config") or {}) | {"sampler": "first_n"}
    return ConfigurableTask(config=config)


def load_config(file: Path) -> dict:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    config = yaml.load(file.read_text(), Loader)
    included = config.pop("include", None)
    return (load_config(file.with_name(included)) if included else {}) | config


def documents(task) -> list[dict]:
    return list(task.test_docs() if task.has_test_docs() else task.validation_docs())


def in_their_columns(name: str, rows: list[dict]) -> list[dict]:
    if not name.startswith("arc"):
        return rows
    return [
        {
            "question": row["question"],
            "choices": {"text": row["choices"], "label": list("ABCDE")[: len(row["choices"])]},
            "answerKey": "ABCDE"[row["answer"]],
        }
        for row in rows
    ]


def rows_of(shared_data: Path, name: str) -> dict[str, list[dict]]:
    """A few rows of each of the splits that lm-eval reads, by the name of the file."""
    files, keep = {
        "gsm8k": ({"test": "gsm8k/test.jsonl"}, lambda row: True),
        "nq_open": ({"dev": "nq_open/dev.jsonl"}, lambda row: True),
        "arc": ({split: f"arc/arc-challenge.{split}.jsonl" for split in ("dev", "test")}, bool),
        "mmlu": (
            {split: f"mmlu/{split}.jsonl" for split in ("dev", "test")},
            lambda row: row["subject"] == "anatomy",
        ),
    }[name if name in ("gsm8k", "nq_open") else name.split("_")[0]]
    found = {}
    for split, file in files.items():
        rows = [json.loads(line) for line in (shared_data / file).open()]
        found[split] = [row for row in rows if keep(row)]
    if name == "nq_open":
        found = {"train": found["dev"][:4], "dev": found["dev"][4:]}
    return {split: rows[:60] for split, rows in found.items()}


@pytest.mark.parametrize("name", THEIRS)
def test_prompts_are_the_same(name, shared_data, tmp_path):
    benchmark, ours, theirs = registry.BENCHMARKS[name], {}, {}
    for split, rows in rows_of(shared_data, name).items():
        ours[split] = write_rows(tmp_path, rows, f"{split}.jsonl")
        theirs[split] = write_rows(tmp_path, in_their_columns(name, rows), f"theirs.{split}.jsonl")
    if "dev" in theirs:
        theirs["validation"] = theirs["dev"]
    if name.startswith("arc"):
        theirs["train"] = theirs["dev"]  # which the chat task takes its shots from
    task = make_task(name, benchmark.shots, theirs)
    questions = benchmark.read(ours.get("test", ours.get("dev")), benchmark.shots)
    assert len(questions) == len(documents(task)) > 0
    for question, document in zip(questions, documents(task), strict=True):
        prompt = task.fewshot_context(
            document,
            benchmark.shots,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lambda messages, add_generation_prompt: json.dumps(messages),
            gen_prefix=task.doc_to_prefix(document),
        )
        begun = [{"role": "assistant", "content": question.prefix}] if question.prefix else []
        assert json.loads(prompt) == [*question.messages, *begun]


def judged(name: str, rows: list[dict], answers: list[str], folder: Path) -> list[list[float]]:
    """The exact matches of every answer, by lm-eval's filters."""
    from lm_eval.api.instance import Instance

    file = write_rows(folder, rows)
    splits = dict.fromkeys(("train", "dev", "validation", "test"), file)
    task = make_task(name, 0, splits)
    task._instances = []
    for index, (document, answer) in enumerate(zip(documents(task), answers, strict=True)):
        metadata = (name, index, 1)
        instance = Instance("generate_until", document, ("", {}), 0, metadata=metadata)
        instance.resps, instance.doc_id = [answer], index
        task._instances.append(instance)
    task.apply_filters()
    return [
        [
            task.process_results(instance.doc, [found])["exact_match"]
            for found in instance.filtered_resps.values()
        ]
        for instance in task._instances
    ]


def test_verdicts_on_gsm8k_are_the_same(tmp_path):
    rows = [{"question": "", "answer": f"#### {gold}"} for gold, *_ in test_gsm8k.ANSWERS]
    answers = [answer for _, answer, *_ in test_gsm8k.ANSWERS]
    expected = [[float(mark) for mark in marks] for *_, marks in _by_marks(test_gsm8k.ANSWERS)]
    assert judged("gsm8k", rows, answers, tmp_path) == expected


def _by_marks(table):
    return [(gold, answer, marks) for gold, answer, *marks in table]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("arc_challenge", test_choice.LETTERS),
        ("mmlu", [row for row in test_choice.LETTERS if row[0] != "E"]),
        ("mmlu_redux", test_choice.FIRST_LETTERS),
    ],
)
def test_verdicts_on_letters_are_the_same(name, table, tmp_path):
    choices = list("abcde"[: 5 if name.startswith("arc") else 4])
    rows = [
        {"question": "", "choices": choices, "answer": "ABCDE".index(gold)} for gold, *_ in table
    ]
    answers = [answer for _, answer, _ in table]
    found = judged(name, in_their_columns(name, rows), answers, tmp_path)
    assert found == [[float(right)] for *_, right in table]


def test_verdicts_on_nq_open_differ_in_white_space_and_empty_golds(tmp_path):
    table = test_nq_open.ANSWERS
    rows = [{"question": "", "answer": golds} for golds, *_ in table]
    found = judged("nq_open", rows, [answer for _, answer, _ in table], tmp_path)
    for (golds, answer, right), (theirs,) in zip(table, found, strict=True):
        if theirs != right:
            empty = any(not any(map(str.isalnum, gold)) for gold in golds)
            assert empty or " ".join(answer.split()) != answer.strip()
        assert registry.BENCHMARKS["nq_open"].verdict(Question("", [], golds), answer) == {
            "exact_match": right
        }
