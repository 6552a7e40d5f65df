"""Our models as lm-eval asks them: answers, and likelihoods of texts (package lm-eval, 0.4).

>>> assistant = load_assistant(config, workdir, rows=32)  # the pair, as `config.generate` says
>>> lm = OverfillLM(assistant, batch_size=32)
>>> lm_eval.simple_evaluate(lm, tasks=["arc_challenge_chat"], apply_chat_template=True)

Of a likelihood the reader reads the context and the writer gives the continuation. In a job of many
processes each asks all the same; lm-eval is told of one process, and only the first should write.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from overfill_jax.errors import InputError
from overfill_jax.inference.continuations import Likelihood, likelihoods
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

    def __init__(self, assistant: Assistant, batch_size: int):
        """Wraps what `load_assistant` gives; `batch_size` rows are read and written at a time."""
        super().__init__()
        self._assistant = assistant
        self._batch_size = batch_size

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
        """One answer to each request.

        Raises:
          InputError: a prompt and its answer are longer than the model's limit; a request asks for
            a way to generate that is not known, or out of range.
        """
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        answers = [""] * len(requests)
        for numbers in alike.values():
            wanted = read_generation(requests[numbers[0]].args[1])
            texts = self._answer([requests[n].args[0] for n in numbers], wanted, not disable_tqdm)
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _answer(
        self, contexts: Sequence[str], wanted: Mapping[str, Any], show_progress: bool
    ) -> list[str]:
        sampling = GREEDY
        if wanted["do_sample"] and wanted["temperature"]:
            seed = self._assistant.sampling.seed
            sampling = Sampling(wanted["temperature"], wanted["top_k"], wanted["top_p"], seed)
        found = self._assistant.generator.generate(
            [self.tok_encode(context) for context in contexts],
            sampling,
            wanted["max_gen_toks"],
            self._batch_size,
            wanted["until"],
            show_progress,
        )
        return [answer.text for answer in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each text, in windows as long as the models can read.

        Raises:
          InputError: see `inference.generation.check_prompt`.
        """
        windows, owners = [], []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(
                tokens, self.prefix_token_id, self.max_length - 1, context_len=1
            ):
                windows.append(make_disjoint_window(window))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, found in zip(owners, self._judge(windows, not disable_tqdm), strict=True):
            sums[owner] += found.log_probability
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = [(one.log_probability, one.greedy) for one in self._judge(pairs, not disable_tqdm)]
        for (texts, _, _), result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def _judge(
        self, pairs: Sequence[tuple[list[int], list[int]]], show_progress: bool
    ) -> list[Likelihood]:
        contexts, continuations = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return likelihoods(
            self._assistant.generator, contexts, continuations, self._batch_size, show_progress
        )


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
