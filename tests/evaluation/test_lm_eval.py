"""lm-eval over our models: what it is told, and that its scores are the built-in ones."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from configs.default import get_config
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.evaluation import harness, score
from overfill_jax.inference.continuations import likelihoods
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.settings import load_assistant
from overfill_jax.weights.folders import save_model
from tests.builders import random_model
from tests.evaluation.tasks.files import write_rows

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402 (only where the package is)

from overfill_jax.evaluation.lm_eval import OverfillLM, read_generation  # noqa: E402

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
LETTERS = (" A", " B", " C", " D")
QUESTIONS = 40
# All that the models ever write.
GOLDS = ("2", "10", "18")
SAID = (*(f"The final answer is {gold}" for gold in GOLDS), *LETTERS, ".")


def make_tokenizer(folder: Path) -> None:
    """Bytes, and what the models write in one token each."""
    tokens = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(["the question and the answer"], trainer)
    tokens.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in SAID])
    tokens.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def make_speaker(seed: int, folder: Path, **changes):
    """Random weights, of which only tokens of SAID and the end ever come out on top."""
    tokenizer = load_tokenizer(folder)
    allowed = [token for text in SAID for token in tokenizer.encode(text)] + [
        *tokenizer.encode("<|end|>")
    ]
    assert len(allowed) == len(SAID) + 1
    shape = {"vocab_size": tokenizer.vocab_size, "max_position": 4096, "num_layers": 2}
    model = random_model(seed, **shape, **changes)
    kernel = np.array(model.params["unembed"]["kernel"])
    others = np.setdiff1d(np.arange(kernel.shape[1]), allowed)
    kernel[:, others] = 0
    params = model.params | {"unembed": {"kernel": jnp.asarray(kernel)}}
    return dataclasses.replace(model, params=params)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A full model and a smaller decoder."""
    folder = tmp_path_factory.mktemp("workdir")
    make_tokenizer(folder)
    for name, seed, width in (("full", 12, 24), ("decoder", 13, 16)):
        model = make_speaker(seed, folder, hidden_size=width)
        save_model(folder / name, model, tokenizer_source=folder)
    return folder


def make_config():
    config = get_config()
    config.generate.dtype = config.score.dtype = "float32"
    config.harness.batch_size = config.score.batch_size = 4
    return config


@pytest.fixture
def assistant(workdir):
    return load_assistant(make_config(), workdir, rows=4)


@pytest.fixture
def lm(assistant):
    return OverfillLM(assistant, batch_size=4)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def count_batches(monkeypatch, stop_before=0):
    """The sizes of all that the models are asked; they fail before that many batches are done."""
    asked = []
    write, judge = Generator.grow, OverfillLM._judge

    def note(size):
        asked.append(size)
        if len(asked) == stop_before:
            raise KeyboardInterrupt

    def grow(self, drafts, *rest):
        note(len(drafts))
        return write(self, drafts, *rest)

    def judged(self, pairs):
        note(len(pairs))
        return judge(self, pairs)

    monkeypatch.setattr(Generator, "grow", grow)
    monkeypatch.setattr(OverfillLM, "_judge", judged)
    return asked


def test_answers_are_the_generators(lm, assistant):
    texts = ["one", "two and more", "three", "<s>four"]
    wanted = {"until": [" B"], "max_gen_toks": 6, "do_sample": False}
    found = lm.generate_until(requests("generate_until", *((text, wanted) for text in texts)))
    begin = assistant.tokenizer.bos_id
    prompts = [[begin, *assistant.tokenizer.encode(text.removeprefix("<s>"))] for text in texts]
    expected = assistant.generator.generate(prompts, GREEDY, 6, 4, [" B"])
    assert found == [answer.text for answer in expected]
    assert len(set(found)) > 1


def test_every_request_has_its_own_way(lm, assistant):
    """Of one call; lengths, stops and temperatures differ."""
    asked = [
        ("x", {"until": [], "max_gen_toks": 3}),
        ("x", {"until": "The", "max_gen_toks": 5}),
        ("x", {"max_gen_toks": 5, "do_sample": True, "temperature": 5.0, "top_p": 0.9}),
        ("x", {"max_gen_toks": 5, "do_sample": False, "temperature": 5.0}),
    ]
    found = lm.generate_until(requests("generate_until", *asked))
    prompt = [lm.tok_encode("x")]
    write = assistant.generator.generate
    assert found == [
        write(prompt, GREEDY, 3, 1)[0].text,
        write(prompt, GREEDY, 5, 1, ["The"])[0].text,
        write(prompt * 3, Sampling(5.0, 0, 0.9, 0), 5, 3)[2].text,
        write(prompt, GREEDY, 5, 1)[0].text,
    ]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"num_beams": 4}, "generation_kwargs: found 'num_beams', expected some of until, max_gen"),
        ({"do_sample": True, "temperature": -1.0}, "temperature is -1.0, expected"),
        ({"max_gen_toks": 5000}, "task hard, question 7: its prompt: .* the model's limit is 4096"),
        ({"max_gen_toks": 0}, "max_new_tokens is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_first_answer(lm, monkeypatch, given, message):
    asked = count_batches(monkeypatch)
    hard = Instance("generate_until", {}, ("x", given), 0, ("hard", 7, 1))
    with pytest.raises(InputError, match=message):
        lm.generate_until([*requests("generate_until", ("x", {"max_gen_toks": 3})), hard])
    assert not asked


def test_what_is_too_long_to_be_likely_is_refused_before_the_first(lm, monkeypatch):
    asked = count_batches(monkeypatch)
    pairs = [("Is it so?", " A"), ("why? " * 1000, " and so")]
    with pytest.raises(InputError, match=r"the likelihood of ' and so', its context: .* is 4096"):
        lm.loglikelihood(requests("loglikelihood", *pairs * 5))
    assert not asked


def test_generation_as_tasks_leave_it_open():
    assert read_generation({"until": ["a", ""], "temperature": None})["until"] == ["a"]
    assert read_generation({"until": None})["until"] == []
    assert read_generation({})["max_gen_toks"] == 256


def test_likelihoods_are_of_the_pair(lm, assistant):
    pairs = [("Is it so?", " A"), ("Is it so?", " and so"), ("", "no"), ("trailing ", "space")]
    found = lm.loglikelihood(requests("loglikelihood", *pairs))
    encode, begin = assistant.tokenizer.encode, assistant.tokenizer.bos_id
    by_hand = [
        ([begin, *encode("Is it so?")], encode(" A")),
        ([begin, *encode("Is it so?")], encode(" and so")),
        ([begin], encode("no")),
        ([begin, *encode("trailing")], encode(" space")),
    ]
    contexts, continuations = zip(*by_hand, strict=True)
    expected = likelihoods(assistant.generator, contexts, continuations, 4)
    for (total, greedy), one in zip(found, expected, strict=True):
        assert total == pytest.approx(one.log_probability, abs=1e-5)
        assert greedy == one.greedy


def test_rolling_reads_every_token_once(assistant, lm, monkeypatch):
    """In windows of 16 tokens as in one of all: the same tokens, each behind less."""
    text = "the question and the answer " * 3
    whole = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,), ("a",)))
    begun = lm.loglikelihood(requests("loglikelihood", ("", text), ("", "a")))
    assert whole == pytest.approx([total for total, _ in begun], abs=1e-4)
    lm, read = OverfillLM(assistant, batch_size=4), []
    judge = lm._judge
    monkeypatch.setattr(type(lm), "max_length", 17)
    monkeypatch.setattr(lm, "_judge", lambda pairs: read.extend(pairs) or judge(pairs))
    lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert all(len(context) + len(continuation) <= 17 for context, continuation in read)
    assert [t for _, continuation in read for t in continuation] == lm.tok_encode(text)[1:]


def test_chat_is_rendered_as_elsewhere(lm, assistant):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer"}]
    prompt = "<s><|user|>Hi<|end|><|assistant|>"
    assert lm.apply_chat_template(turns[:1]) == prompt
    assert lm.apply_chat_template(turns, add_generation_prompt=False) == f"{prompt}The answer"
    assert lm.tok_encode(prompt) == assistant.encode(turns[:1])  # with one <s>
    assert lm.chat_template(True) == TEMPLATE and lm.chat_template(False) is None


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


TINY = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{question}}}}"
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
WRITTEN = """output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs:
  until: []
  max_gen_toks: 4
"""
CHOSEN = """output_type: multiple_choice
doc_to_target: 0
doc_to_choice: ["A", "B", "C"]
"""


@pytest.fixture
def tiny(workdir, tmp_path, monkeypatch):
    """Config of two tasks, of 10 questions to write and of as many with 3 choices; and a workdir of
    its own."""
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    rows = [{"question": "why? " * number, "answer": "2"} for number in range(1, 11)]
    data = write_rows(tmp_path, rows, "tiny.jsonl")
    for name, rest, metric in (("written", WRITTEN, "exact_match"), ("chosen", CHOSEN, "acc")):
        text = TINY.format(name=name, data=data, metric=metric) + rest
        (tmp_path / f"{name}.yaml").write_text(text)
    config = make_config()
    config.harness.folder, config.harness.tasks = str(tmp_path), ("written", "chosen")
    config.harness.shots = 0
    tasks = harness.load_tasks(config.harness)  # which takes longer than all the rest
    monkeypatch.setattr(harness, "load_tasks", lambda _: tasks)
    own = tmp_path / "run"
    own.mkdir()
    for name in ("full", "decoder"):
        (own / name).symlink_to(workdir / name)
    return config, own


def test_a_run_that_was_cut_off_asks_only_what_is_left(tiny, monkeypatch):
    config, workdir = tiny
    folder = workdir / "harness/full-decoder"
    whole = count_batches(monkeypatch)
    harness.run(config, workdir)
    results = json.loads((folder / "results.json").read_text())["results"]
    samples = [(folder / f"{name}.jsonl").read_text() for name in ("written", "chosen")]
    assert sum(whole) == 10 + 3 * 10
    shutil.rmtree(folder)
    begun = 0
    for stop_before in (3, 4):  # in the first kind of requests, and in the second
        with monkeypatch.context() as patch:
            asked = count_batches(patch, stop_before)
            with pytest.raises(KeyboardInterrupt):
                harness.run(config, workdir)
        begun += sum(asked[:-1])
        assert not (folder / "results.json").exists()
    with monkeypatch.context() as patch:
        asked = count_batches(patch)
        harness.run(config, workdir)
        assert 0 < sum(asked) == 40 - begun
        assert json.loads((folder / "results.json").read_text())["results"] == results
        assert [(folder / f"{name}.jsonl").read_text() for name in ("written", "chosen")] == samples
        asked.clear()
        harness.run(config, workdir)
        assert not asked


def test_results_of_other_settings_stay(tiny):
    config, workdir = tiny
    config.harness.tasks, config.harness.limit = ("written",), 1
    harness.run(config, workdir)
    folder = workdir / "harness/full-decoder"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    config.harness.batch_size = 2  # which changes no answer
    for section, key, value in (
        ("harness", "tasks", ("written", "chosen")),
        ("harness", "shots", 1),
        ("harness", "limit", 3),
        ("harness", "chat", False),
        ("generate", "dtype", "bfloat16"),
        ("generate", "refresh", "every"),
    ):
        other = config.copy_and_resolve_references()
        other[section][key] = value
        with pytest.raises(InputError, match=rf"answers.jsonl: .* made with {section}\.{key}="):
            harness.run(other, workdir)
    (workdir / "decoder").unlink()
    (workdir / "decoder").symlink_to("full")
    with pytest.raises(InputError, match=r"answers.jsonl: .* made with writer="):
        harness.run(config, workdir)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_asked_twice_may_be_answered_twice(lm):
    """As tasks do that draw several answers to a question."""
    wanted = {"max_gen_toks": 6, "do_sample": True, "temperature": 5.0}
    found = lm.generate_until(requests("generate_until", *[("x", wanted)] * 8))
    assert len(set(found)) > 1
    assert lm.generate_until(requests("generate_until", *[("x", wanted)] * 8)) == found
