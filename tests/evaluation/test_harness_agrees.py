"""That the scores by way of lm-eval are the built-in ones, to the question."""

import json
from pathlib import Path

import pytest

from overfill_jax.evaluation import harness, score
from tests.evaluation.tasks.files import write_rows

lm_eval = pytest.importorskip("lm_eval")

from tests.evaluation.speakers import GOLDS, make_config, make_workdir  # noqa: E402 (needs it)

QUESTIONS = 40


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("workdir"))


def write_task(folder: Path, name: str, like: str, data: dict[str, Path]) -> None:
    """A task of lm-eval's own, of local files."""
    own = Path(lm_eval.__file__).parent / "tasks" / like
    files = "".join(f"    {split}: {path}\n" for split, path in data.items())
    (folder / f"{name}.yaml").write_text(
        f"include: {own}\ntask: {name}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files:\n{files}"
    )


def gsm8k(shared: Path, folder: Path) -> Path:
    rows = [json.loads(line) for line in (shared / "gsm8k" / "test.jsonl").open()]
    rows = [row for row in rows if row["answer"].rpartition("####")[2].strip() in GOLDS]
    path = write_rows(folder, rows[:QUESTIONS], "gsm8k_test.jsonl")
    write_task(folder, "local_gsm8k", "gsm8k/gsm8k-cot-llama.yaml", {"test": path})
    return path


def arc(shared: Path, folder: Path) -> Path:
    lines = (shared / "arc" / "arc-challenge.test.jsonl").open()
    rows = [row for row in map(json.loads, lines) if len(row["choices"]) < 5][:QUESTIONS]
    theirs = [
        {
            "question": row["question"],
            "choices": {"text": row["choices"], "label": list("ABCD")[: len(row["choices"])]},
            "answerKey": "ABCD"[row["answer"]],
        }
        for row in rows
    ]
    data = {split: write_rows(folder, theirs, "arc_theirs.jsonl") for split in ("train", "test")}
    write_task(folder, "local_arc", "arc/arc_challenge_chat.yaml", data)
    return write_rows(folder, rows, "arc_test.jsonl")


def mmlu(shared: Path, folder: Path) -> Path:
    paths = {}
    for split in ("dev", "test"):
        rows = map(json.loads, (shared / "mmlu" / f"{split}.jsonl").open())
        chosen = [row for row in rows if row["subject"] == "anatomy"][:QUESTIONS]
        paths[split] = write_rows(folder, chosen, f"mmlu_{split}.jsonl")
    write_task(folder, "local_mmlu", "llama3/instruct/mmlu/_continuation_template_yaml", paths)
    return paths["test"]


# The built-in task, lm-eval's, and which mark is which filter's.
AGREEING = {
    "gsm8k": ("local_gsm8k", gsm8k, {"strict": "strict-match", "flexible": "flexible-extract"}),
    "arc_challenge": ("local_arc", arc, {"exact_match": "remove_whitespace"}),
    "mmlu": ("local_mmlu", mmlu, {"exact_match": "strict_match"}),
}


@pytest.fixture(scope="module")
def both(workdir, shared_data, tmp_path_factory):
    """The pair on all of these tasks, by both routes: our rows and lm-eval's of each, by name."""
    folder = tmp_path_factory.mktemp("tasks")
    config = make_config()
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(variable, "1")
        patch.setenv("HF_HOME", str(folder / "cache"))
        for name, (_, prepare, _) in AGREEING.items():
            config.score.source = str(prepare(shared_data, folder))
            config.score.task, config.score.systems = name, ("two_stage",)
            config.score.shots = 0 if name == "arc_challenge" else 1
            score.run(config, workdir)
        config.harness.tasks = tuple(task for task, _, _ in AGREEING.values())
        config.harness.folder, config.harness.shots = str(folder), 1
        harness.run(config, workdir)
    return {
        name: (
            read_lines(workdir / "scores" / name / "two_stage.jsonl"),
            read_lines(workdir / "harness" / "full-decoder" / f"{task}.jsonl"),
        )
        for name, (task, _, _) in AGREEING.items()
    }


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


@pytest.mark.parametrize("name", AGREEING)
def test_scores_agree_to_the_question(both, workdir, name):
    """Prompts, answers and verdicts; right and wrong ones occur."""
    task, _, marks = AGREEING[name]
    ours, theirs = both[name]
    ours.sort(key=lambda row: int(row["id"]))
    results = json.loads((workdir / "harness/full-decoder/results.json").read_text())
    for mark, kind in marks.items():
        found = sorted((s for s in theirs if s["filter"] == kind), key=lambda s: s["doc_id"])
        assert len(found) == len(ours) == QUESTIONS
        for sample, row in zip(found, ours, strict=True):
            assert sample["arguments"][0][0] == row["prompt"]
            assert sample["resps"] == [[row["answer"]]]
            assert sample["exact_match"] == row["marks"][mark]
        right = sum(row["marks"][mark] for row in ours)
        assert 0 < right < QUESTIONS
        share = results["results"][task][f"exact_match,{kind}"]
        assert share == pytest.approx(right / QUESTIONS)
    assert results["settings"]["harness.shots"] == 1
