"""Our models as lm-eval asks them: what it is told."""

import json

import pytest

from overfill_jax.errors import InputError
from overfill_jax.inference.continuations import likelihoods
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.settings import load_assistant

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from overfill_jax import distributed
from overfill_jax.evaluation.lm_eval import (
    OverfillLM,
    check_same,
    read_generation,
    share,
)
from tests.evaluation.speakers import (
    TEMPLATE,
    count_batches,
    make_config,
    make_workdir,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("workdir"))


@pytest.fixture
def assistant(workdir):
    return load_assistant(make_config(), workdir, rows=4)


@pytest.fixture
def lm(assistant):
    return OverfillLM(assistant, batch_size=4)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


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


def test_likelihoods_are_refreshed_as_answers_are(lm, workdir):
    """At every token they are the full model's."""
    pairs = [("Is it so?", " and so"), ("why? why?", " The final answer")]

    def ask(lm):
        texts = requests("loglikelihood_rolling", *((text,) for _, text in pairs))
        chosen = lm.loglikelihood(requests("loglikelihood", *pairs))
        return [*(total for total, _ in chosen), *lm.loglikelihood_rolling(texts)]

    def load(**changes):
        config = make_config()
        config.generate.update(changes)
        return OverfillLM(load_assistant(config, workdir, rows=4), batch_size=4)

    full = ask(load(decoder="full"))
    assert ask(load(refresh="every", refresh_interval=1)) == pytest.approx(full, abs=1e-4)
    assert ask(lm) != pytest.approx(full, abs=1e-2)
    partly = load(refresh="every", refresh_interval=2, refresh_strictness=0.5)
    with pytest.raises(
        InputError, match=r"generate\.refresh_strictness: .* likelihoods .*loglikelihood"
    ):
        ask(partly)


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


def test_what_is_asked_twice_may_be_answered_twice(lm):
    """As tasks do that draw several answers to a question."""
    wanted = {"max_gen_toks": 6, "do_sample": True, "temperature": 5.0}
    found = lm.generate_until(requests("generate_until", *[("x", wanted)] * 8))
    assert len(set(found)) > 1
    assert lm.generate_until(requests("generate_until", *[("x", wanted)] * 8)) == found


@pytest.fixture
def second_of_three(monkeypatch):
    """What is said of processes here; gives the list of what the three say to each other."""
    said = []
    monkeypatch.setattr(distributed, "process_count", lambda: 3)
    monkeypatch.setattr(distributed, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "gather", lambda text, _: [said[0], text, said[1]])
    return said


def test_processes_share_out_a_batch(second_of_three):
    asked = []

    def answer(numbers):
        asked.extend(numbers)
        return [f"my {number}" for number in numbers]

    second_of_three[:] = [json.dumps([2.5, "x"]), json.dumps([[0.5, True]])]
    found = share([9, 8, 7, 6, 5], answer)
    assert sorted(found) == [(5, "my 5"), (6, "x"), (7, [0.5, True]), (8, "my 8"), (9, 2.5)]
    asked.clear()
    second_of_three[:] = ['["x"]', "[]"]
    assert share([9], lambda numbers: asked.append(numbers)) == [(9, "x")]
    assert not asked


def test_processes_that_are_asked_different_things_are_told(second_of_three):
    second_of_three[:] = ["x", "x"]
    with pytest.raises(InputError, match="other loglikelihood requests in process 0, 2; 1"):
        check_same("loglikelihood", ["a"])
