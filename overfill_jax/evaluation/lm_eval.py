"""Our models as lm-eval asks them: answers, and likelihoods of texts (package lm-eval, 0.4).

>>> assistant = load_assistant(config, workdir, rows=32)  # the pair, as `config.generate` says
>>> lm = OverfillLM(assistant, batch_size=32)
>>> lm_eval.simple_evaluate(lm, tasks=["arc_challenge_chat"], apply_chat_template=True)

Of a likelihood the reader reads the context and the writer gives the continuation, refreshed like
an answer. In a job of many processes lm-eval runs in each as if alone and poses the same requests,
which they share out here: each answers its part on its own devices, with a pair of its own, and
tells all. The first writes.
"""

import collections
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM, hash_args
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm.auto import tqdm

from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.evaluation.answer_log import AnswerLog
from overfill_jax.inference.buckets import bucket
from overfill_jax.inference.compiled import CHUNK
from overfill_jax.inference.continuations import Likelihood, likelihoods
from overfill_jax.inference.generation import check_prompt
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.settings import Assistant

MAX_NEW_TOKENS = 256  # where a task does not say, as with lm-eval's own models
# What a task may ask for, and its value where it does not.
GENERATION = {
    "until": [],
    "max_gen_toks": MAX_NEW_TOKENS,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
}


class OverfillLM(TemplateLM):
    """A pair of models, or one alone, behind lm-eval's interface."""

    def __init__(self, assistant: Assistant, batch_size: int, log: AnswerLog | None = None):
        """Makes a model that lm-eval can ask.

        Args:
          assistant: what `load_assistant` gives.
          batch_size: rows that each process reads and writes at a time.
          log: of answers, which are not asked for again; every other goes there as its batch ends.
        """
        super().__init__()
        self._assistant = assistant
        self._batch_size = batch_size
        self._log = log
        rows = {} if log is None else log.rows
        self._answers = {name: row["answer"] for name, row in rows.items()}

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        tokens = self._assistant.tokenizer
        return tokens.stop_ids[0] if tokens.stop_ids else tokens.pad_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        begin = self._assistant.tokenizer.bos_id
        return self.eot_token_id if begin is None else begin

    @property
    def max_length(self) -> int:
        """Tokens that both models can read."""
        reader, writer, _ = self._assistant.generator.pair
        return min(reader.config.max_position, writer.config.max_position)

    @property
    def tokenizer_name(self) -> str:
        """Tells prompts apart that lm-eval keeps for later runs."""
        return hashlib.sha256(self._assistant.template.source.encode()).hexdigest()[:16]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template, for the record; a model has one."""
        return self._assistant.template.source if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation; without the header of an answer, the last turn goes on."""
        if add_generation_prompt:
            return self._assistant.template.render(chat_history, add_generation_prompt=True)
        before, begun = chat_history[:-1], chat_history[-1]["content"]
        return self._assistant.template.render(before, add_generation_prompt=True) + begun

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text, which begins with the BOS token, once, where the tokenizer has one."""
        begin = self._assistant.tokenizer.bos_id
        ids = self._assistant.tokenizer.encode(string)
        wanted = begin is not None and add_special_tokens is not False
        return [begin, *ids] if wanted and ids[:1] != [begin] else ids

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer to each request; it draws, where it is to, by its place among them.

        Raises:
          InputError: before the first answer: a prompt and its answer are longer than the model's
            limit; a request asks for a way to generate that is not known, or out of range.
        """
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        groups = [sorted(same, key=lambda number: -len(prompts[number])) for same in alike.values()]
        for request, prompt in zip(requests, prompts, strict=True):
            self._check(request, prompt)

        def write(numbers: Sequence[int]) -> list[str]:
            return self._write(prompts, numbers, read_generation(requests[numbers[0]].args[1]))

        asked = [request.args for request in requests]
        return self._ask("generate_until", asked, groups, write, not disable_tqdm)

    def _check(self, request: Instance, prompt: list[int]) -> None:
        """Refuses what the models cannot answer."""
        generator = self._assistant.generator
        try:
            wanted = read_generation(request.args[1])
            self._sampling(wanted)
            generator.check_prompt(prompt, wanted["max_gen_toks"], "its prompt")
            generator.draft(wanted["max_gen_toks"], wanted["until"])
        except InputError as error:
            place = f"task {request.task_name}, question {request.doc_id}"
            raise InputError(f"{place}: {error}") from error

    def _write(
        self, prompts: Sequence[list[int]], numbers: Sequence[int], wanted: Mapping[str, Any]
    ) -> list[str]:
        """Of a batch, the prompts of these numbers."""
        generator, most = self._assistant.generator, wanted["max_gen_toks"]
        drafts = {number: generator.draft(most, wanted["until"]) for number in numbers}
        size = min(bucket(len(drafts), smallest=1), self._batch_size)
        for _ in generator.grow(drafts, prompts, size, self._sampling(wanted), most, CHUNK):
            pass
        return [draft.answer().text for draft in drafts.values()]

    def _sampling(self, wanted: Mapping[str, Any]) -> Sampling:
        if not (wanted["do_sample"] and wanted["temperature"]):
            return GREEDY
        seed = self._assistant.sampling.seed
        return Sampling(wanted["temperature"], wanted["top_k"], wanted["top_p"], seed)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each text, in windows as long as the models can read."""
        texts = [self.tok_encode(request.args[0], add_special_tokens=False) for request in requests]
        longest_first = sorted(range(len(texts)), key=lambda number: -len(texts[number]))

        def judge(numbers: Sequence[int]) -> list[float]:
            windows = {number: self._windows(texts[number]) for number in numbers}
            found = iter(self._judge([window for own in windows.values() for window in own]))
            return [
                sum(one.log_probability for one in itertools.islice(found, len(own)))
                for own in windows.values()
            ]

        asked = [request.args for request in requests]
        return self._ask("loglikelihood_rolling", asked, [longest_first], judge, not disable_tqdm)

    def _windows(self, tokens: list[int]) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            tokens, self.prefix_token_id, self.max_length - 1, context_len=1
        )
        return [make_disjoint_window(window) for window in windows]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        for texts, context, continuation in requests:
            self._check_likelihood(texts, context, continuation)
        # As `likelihoods` makes its batches.
        order = sorted(range(len(pairs)), key=lambda n: (-len(pairs[n][1]), -len(pairs[n][0])))

        def judge(numbers: Sequence[int]) -> list[tuple[float, bool]]:
            found = self._judge([pairs[number] for number in numbers])
            return [(one.log_probability, one.greedy) for one in found]

        asked = [texts for texts, _, _ in requests]
        found = self._ask("loglikelihood", asked, [order], judge, not disable_tqdm)
        return [(total, greedy) for total, greedy in found]

    def _check_likelihood(
        self, texts: tuple[str, str], context: list[int], continuation: list[int]
    ) -> None:
        reader, writer, _ = self._assistant.generator.pair
        for model in (reader, writer):
            if continuation:  # there is nothing to read of an empty one
                name = f"the likelihood of {texts[1][:40]!r}, its context"
                check_prompt(context, len(continuation), model.config, name)

    def _judge(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Likelihood]:
        contexts, continuations = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return likelihoods(self._assistant.generator, contexts, continuations, self._batch_size)

    def _ask(
        self,
        kind: str,
        asked: Sequence[tuple],
        groups: Sequence[Sequence[int]],
        answer: Callable[[Sequence[int]], list],
        show_progress: bool,
    ) -> list:
        """The answers to all requests, of which the log may have some; it gets the others.

        To be called by all processes, for the same requests.

        Args:
          kind: of the requests, as lm-eval calls it.
          asked: their arguments.
          groups: the numbers of those that may share a batch, in the order to be answered in.
          answer: gives the answers to a batch of some numbers.
          show_progress: on the console.

        Raises:
          InputError: lm-eval poses other requests in other processes.
        """
        names = name_requests(kind, asked)
        check_same(kind, names)
        together = distributed.process_count() * self._batch_size
        shown = show_progress and distributed.is_main()
        left = [[n for n in group if names[n] not in self._answers] for group in groups]
        with tqdm(total=sum(map(len, left)), unit=" answers", disable=not shown) as bar:
            for group in left:
                for start in range(0, len(group), together):
                    batch = group[start : start + together]
                    for number, found in share(batch, answer):
                        self._keep(names[number], kind, asked[number], found)
                    bar.update(len(batch))
        return [self._answers[name] for name in names]

    def _keep(self, name: str, kind: str, asked: tuple, answer: Any) -> None:
        self._answers[name] = answer
        self.cache_hook.add_partial(kind, asked, answer)
        if self._log is not None and distributed.is_main():
            self._log.append({"id": name, "kind": kind, "prompt": asked, "answer": answer})


def share(batch: Sequence[int], answer: Callable[[Sequence[int]], list]) -> list[tuple[int, Any]]:
    """Each number with its answer, as JSON has it; a process answers a part and learns the others.

    To be called by all processes.
    """
    index, count = distributed.process_index(), distributed.process_count()
    own = batch[index::count]
    texts = distributed.gather(json.dumps(answer(own) if own else []), distributed.WORK_TIMEOUT)
    parts = [zip(batch[n::count], json.loads(text), strict=True) for n, text in enumerate(texts)]
    return [pair for part in parts for pair in part]


def check_same(kind: str, names: Sequence[str]) -> None:
    """Compares the requests of all processes, which meet here.

    Raises:
      InputError: in every process; they differ.
    """
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    same = distributed.who_says(distributed.gather(digest, distributed.WORK_TIMEOUT))
    if len(same) > 1:
        raise InputError(
            f"lm-eval: found other {kind} requests in process {'; '.join(same.values())}, expected "
            "the same tasks and data on all hosts"
        )


def name_requests(kind: str, asked: Sequence[tuple]) -> list[str]:
    """A name for each request by which it is known again, though others come to stand before it."""
    names, seen = [], collections.Counter[str]()
    for arguments in asked:
        content = hash_args(kind, arguments)
        names.append(f"{content}-{seen[content]}")  # what is asked again may be answered otherwise
        seen[content] += 1
    return names


def read_generation(given: Mapping[str, Any]) -> dict[str, Any]:
    """How a task wants answers generated, with the values that it leaves open.

    Raises:
      InputError: it asks for something that is not known here.
    """
    if unknown := sorted(given.keys() - GENERATION.keys()):
        raise InputError(
            f"generation_kwargs: found {unknown[0]!r}, expected some of {', '.join(GENERATION)}"
        )
    found = GENERATION | {key: value for key, value in given.items() if value is not None}
    until = found["until"]
    found["until"] = [until] if isinstance(until, str) else [text for text in until if text]
    return found
