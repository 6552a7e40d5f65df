"""MATH, WMT16, IFEval and ranked choices against lm-eval's own code, by the same answers."""

import importlib.metadata
import itertools
import json

import numpy as np
import pytest

from overfill_jax.evaluation.tasks import ifeval, mathematics, registry, wmt16
from overfill_jax.evaluation.tasks.question import Question
from tests.evaluation.tasks import (
    instruction_answers,
    test_against_lm_eval,
    test_choice,
    test_ifeval,
    test_mathematics,
    test_wmt16,
)
from tests.evaluation.tasks.files import write_rows
from tests.evaluation.tasks.test_against_lm_eval import documents, in_their_columns, make_task

offline = test_against_lm_eval.offline


@pytest.fixture
def minerva(monkeypatch):
    """lm-eval's minerva_math, which refuses any antlr but 4.11.

    Only its other metric, by sympy's own parser, needs that version: it is left out here.
    """
    pytest.importorskip("math_verify")
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "4.11" if name == "antlr4-python3-runtime" else real(name),
    )
    module = importlib.import_module("lm_eval.tasks.minerva_math.utils")
    monkeypatch.setattr(module, "is_equiv", lambda found, expected: False)
    return module


def test_verdicts_on_math_are_the_same(minerva):
    cases = [(solution, answer) for solution, answer, _ in test_mathematics.ANSWERS]
    cases += [(rf"$\boxed{{{result}}}$", answer) for answer, result in test_mathematics.RESULTS]
    for solution, answer in cases:
        doc = {"problem": "", "solution": solution, "answer": ""}
        theirs = minerva.process_results(doc, [answer])["math_verify"]
        ours = mathematics.verdict(Question("1", [], solution), answer)
        assert ours == {"math_verify": theirs}, answer


def test_prompts_of_math_are_the_same(minerva, tmp_path):
    (question,) = mathematics.read(write_rows(tmp_path, [test_mathematics.ROW]), 4)
    shots = [(shot["problem"], shot["solution"]) for shot in minerva.list_fewshot_samples()]
    expected = [
        message
        for problem, solution in shots
        for message in (problem_of(minerva, problem), solution)
    ]
    expected.append(problem_of(minerva, test_mathematics.ROW["problem"]))
    assert [message["content"] for message in question.messages] == expected


def problem_of(minerva, problem: str) -> str:
    return minerva.doc_to_text({"problem": problem})


GERMAN_SHOTS = ["Eins.", "Zwei: 1,5 %", "Drei?", "Vier!"]
ENGLISH_SHOTS = ["One.", "Two: 1.5 %", "Three?", "Four!"]


@pytest.fixture
def translation(monkeypatch, tmp_path):
    """lm-eval's wmt16-de-en and our questions, on the same sentences."""
    references = [case[0] for case in test_wmt16.COUNTS]
    german = [f"Satz {number}." for number in range(len(references))]
    test_wmt16.write(tmp_path, "val", GERMAN_SHOTS, ENGLISH_SHOTS)
    source = test_wmt16.write(tmp_path, "test", german, references)
    splits = {}
    for split, *texts in (
        ("test", german, references),
        ("validation", GERMAN_SHOTS, ENGLISH_SHOTS),
        ("train", GERMAN_SHOTS, ENGLISH_SHOTS),
    ):
        rows = [{"translation": {"de": de, "en": en}} for de, en in zip(*texts, strict=True)]
        splits[split] = write_rows(tmp_path, rows, f"theirs.{split}.jsonl")
    file = "translation/wmt16_de-en.yaml"
    monkeypatch.setitem(test_against_lm_eval.THEIRS, "wmt16", (file, {}))
    return make_task("wmt16", 4, splits), wmt16.read(source, 4)


def test_prompts_of_wmt16_are_the_same(translation):
    task, questions = translation
    assert len(questions) == len(documents(task)) == len(test_wmt16.COUNTS)
    for question, document in zip(questions, documents(task), strict=True):
        prompt = task.fewshot_context(
            document,
            4,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lambda messages, add_generation_prompt: json.dumps(messages),
        )
        assert json.loads(prompt) == list(question.messages)


def test_bleu_is_the_same(translation):
    """Of every answer by itself, which no mean makes whole, and of all together."""
    task, questions = translation
    answers = [case[1] for case in test_wmt16.COUNTS]
    theirs = task.aggregation()["bleu"]
    items, counts = [], []
    for question, document, answer in zip(questions, documents(task), answers, strict=True):
        items.append(task.process_results(document, [answer])["bleu"])
        counts.append(wmt16.count_ngrams(question, answer))
        assert wmt16.bleu(np.array(counts[-1])) == theirs(items[-1:]), answer
    assert wmt16.bleu(np.sum(counts, axis=0)) == theirs(items) > 0


@pytest.fixture
def google(monkeypatch, tmp_path):
    """lm-eval's ifeval; the sentence model that it would download is written from our package's."""
    for package in ("langdetect", "nltk", "punkt"):
        pytest.importorskip(package)
    import nltk
    from nltk.tokenize.punkt import save_punkt_params

    from overfill_jax.evaluation.tasks import text_units

    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    save_punkt_params(text_units._sentence_splitter()._params, str(folder))
    text_units.detect_language("")  # seeds the detector, which both use
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


# An instruction's texts are texts here, and patterns in lm-eval.
PATTERNS = {
    ("keywords:existence", "I like ccc."),
    ("detectable_content:postscript", "nxbx this"),
    ("detectable_format:multiple_sections", "Day 1"),
    ("detectable_format:multiple_sections", "Days 1"),
}


def instruction_cases():
    """Instructions and answers, but where lm-eval draws another letter or cannot read the JSON."""
    for name, arguments, follow, fail in itertools.chain(*instruction_answers.GROUPS):
        if arguments.get("letter") != "#":
            yield from (((name, arguments), answer) for answer in (*follow, *fail))
    yield from ((instruction, answer) for instruction, answer, *_ in test_ifeval.LOOSELY)


def test_verdicts_on_ifeval_are_the_same(google):
    """Of prompts with a second instruction, so that theirs are not those of instructions."""
    cases = [case for case in instruction_cases() if len(case[1]) < 10_000]
    assert len(cases) > 250
    for (name, arguments), answer in cases:
        ours, theirs = both(google, [(name, arguments), test_ifeval.NO_COMMA], answer)
        assert (ours == theirs) != ((name, answer) in PATTERNS), (name, answer, theirs)


def test_verdicts_on_published_instructions_are_the_same(google, shared_data):
    """Of the prompts, taken as answers, but for two rows with another letter than a to z."""
    questions = ifeval.read(shared_data / "ifeval" / "input_data.jsonl", 0)
    for question in questions:
        if all(arguments.get("letter", "a").isalpha() for _, arguments in question.gold):
            ours, theirs = both(google, question.gold, question.messages[0]["content"])
            assert ours == theirs, question


def both(google, instructions, answer: str) -> tuple[dict, dict]:
    """Our marks and lm-eval's, by the names of its metrics."""
    names, kwargs = zip(*instructions, strict=True)
    doc = {"key": 1, "prompt": "p", "instruction_id_list": names, "kwargs": kwargs}
    question = Question("1", [], instructions)
    marks = ifeval.verdict(question, answer)
    ours = {
        "prompt_level_strict_acc": marks["prompt_strict"],
        "inst_level_strict_acc": ifeval.follows(question, answer),
        "prompt_level_loose_acc": marks["prompt_loose"],
        "inst_level_loose_acc": ifeval.follows_loosely(question, answer),
    }
    return ours, google.process_results(doc, [answer])


@pytest.mark.parametrize("name", ["arc_challenge_likelihood", "mmlu_likelihood"])
def test_verdicts_on_rankings_are_the_same(name, tmp_path):
    """But for likelihoods that are no number, which lm-eval takes for the largest."""
    table = [row for row in test_choice.RANKINGS if not np.isnan(row[2]).any()]
    if name == "mmlu_likelihood":  # ranks four letters
        table = [
            (list("ABCD"), gold, (*found, -np.inf), *marks)
            for choices, gold, found, *marks in table
            if len(choices) == 3
        ]
    rows = [
        {"question": "", "choices": list(choices), "answer": gold} for choices, gold, *_ in table
    ]
    file = write_rows(tmp_path, in_their_columns(name, rows))
    task = make_task(name, 0, dict.fromkeys(("train", "dev", "validation", "test"), file))
    for (choices, gold, found, *_), document in zip(table, documents(task), strict=True):
        theirs = task.process_results(document, [(one, False) for one in found])
        question = Question("1", [], gold, choices=tuple(choices))
        ours = registry.BENCHMARKS[name].verdict(question, found)
        assert ours == {metric: theirs[metric] for metric in ours}
    assert len(table) >= 15
