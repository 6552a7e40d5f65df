"""Both stages as one object: answers, streams and an engine from two models in memory."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from overfill_jax import two_stage
from overfill_jax.api.language_model import LanguageModel, check_not_quantised
from overfill_jax.data.chat import encode_prompt
from overfill_jax.errors import InputError
from overfill_jax.inference.arguments import (
    check_several,
    further_tokens,
    is_text,
    messages_of,
    padded_prompts,
    tokens_of,
)
from overfill_jax.inference.buckets import bucket
from overfill_jax.inference.engine import Engine, Room
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import Refresh
from overfill_jax.inference.sampling import Sampling
from overfill_jax.model.cache import KVCache
from overfill_jax.weights.origin import check_origin

# Slots that an answer gets at a time; `TwoStage.extend` adds more when they run out.
ANSWER_SLOTS = 128
Prompt = str | Sequence[dict] | Sequence[int] | np.ndarray


class TwoStage:
    """A full model that reads prompts and a decoder that answers from its cache.

    >>> pair = overfill_jax.TwoStage(full, decoder)
    >>> answers = pair.generate(["How many has Ann?"], max_new_tokens=8)

    With the same model twice it is that model alone.
    """

    def __init__(
        self,
        full: LanguageModel,
        decoder: LanguageModel,
        first_token: str = "full",
        refresh: Refresh | None = None,
        cache: str = "",
    ):
        """Joins the two.

        Args:
          full: reads the prompts.
          decoder: writes the answers.
          first_token: who gives the first answer token, as in training.
          refresh: when the full model reads again what the decoder has written; None for never.
          cache: "int8" for a cache in integers, converted as it is handed over; in `generate`,
            `stream` and `engine`.

        Raises:
          InputError: one is no model; the decoder cannot read the full model's cache, or was made
            for another full model or first token.
        """
        for name, model in (("full", full), ("decoder", decoder)):
            if not isinstance(model, LanguageModel):
                found = type(model).__name__
                raise InputError(f"TwoStage: {name} is a {found}, expected a model as of `load`")
        if decoder.origin is not None and decoder.fingerprint != full.fingerprint:
            name = str(decoder.folder)
            check_origin(decoder.origin, name, full.fingerprint, first_token)
        self.full, self.decoder = full, decoder
        self.first_token = first_token
        self.refresh = refresh
        self.cache = cache
        tokenizer = full.tokenizer
        self._generator = Generator(
            full.model,
            decoder.model,
            first_token,
            tokenizer.stop_ids,
            tokenizer.pad_id,
            tokenizer,
            refresh,
            cache,
        )

    def prefill(
        self, tokens: Int[Array | np.ndarray, "B P"], lengths: Int[Array | np.ndarray, "B"]
    ) -> tuple[Float[Array, "B V"], KVCache]:
        """Reads right-padded prompts with the full model and hands the cache over.

        >>> import numpy as np
        >>> logits, cache = pair.prefill(np.array([[5, 6, 7], [8, 9, 0]]), np.array([3, 2]))
        >>> logits.shape, cache.lengths.tolist()
        ((2, 256), [3, 2])

        Returns:
          Logits of the first answer token, and the cache as `extend` goes on from it.

        Raises:
          InputError: another shape, a length out of range, or a token that the model lacks.
        """
        check_not_quantised("prefill", self.full)
        tokens, lengths = padded_prompts(tokens, lengths, self.full.config)
        with self._on_mesh(tokens):
            logits, cache = _prefill(self.full.model, tokens, lengths, ANSWER_SLOTS)
        cache = two_stage.handoff(cache, self.full.config, self.decoder.config, self.first_token)
        if self.first_token == "full":
            return logits, cache
        last = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)
        logits, cache = self.extend(last, cache)
        return logits[:, 0], cache

    def extend(
        self, tokens: Int[Array | np.ndarray, "B T"], cache: KVCache
    ) -> tuple[Float[Array, "B T V"], KVCache]:
        """Reads further answer tokens with the decoder.

        >>> import numpy as np
        >>> _, cache = pair.prefill(np.array([[5, 6, 7]]), np.array([3]))
        >>> logits, cache = pair.extend(np.array([[8, 9]]), cache)
        >>> logits.shape, cache.lengths.tolist()
        ((1, 2, 256), [5])

        Returns:
          Logits after each of them, and the longer cache; the one given stays as it was. Under a
          jit of the caller's, the cache is to have the slots already (`cache.grow`).

        Raises:
          InputError: another shape, a token that the model lacks, or more than it can read.
        """
        check_not_quantised("extend", self.decoder)
        tokens = further_tokens(tokens, cache, self.decoder.config)
        if not isinstance(cache.cursor, jax.core.Tracer):
            lacking = int(cache.cursor) + tokens.shape[1] - cache.capacity
            if lacking > 0:
                cache = cache.grow(bucket(lacking, ANSWER_SLOTS))
        with self._on_mesh(tokens):
            return _extend(self.decoder.model, tokens, cache)

    def _on_mesh(self, tokens: Array) -> contextlib.AbstractContextManager:
        # Under a jit of the caller's the mesh is the caller's to set.
        traced = isinstance(tokens, jax.core.Tracer)
        return contextlib.nullcontext() if traced else jax.set_mesh(self._generator.mesh)

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        batch_size: int = 32,
    ) -> list[str] | list[np.ndarray]:
        """Answers each prompt.

        >>> answers = pair.generate(["Hello!"], max_new_tokens=8, temperature=0.7, top_p=0.9)
        >>> len(answers)
        1

        Args:
          prompts: questions, conversations (lists of messages) or tokens.
          max_new_tokens: tokens at which an answer is cut.
          temperature: 0 is greedy.
          top_k: draw from the k likeliest tokens only; 0 for all.
          top_p: draw from the likeliest tokens that hold this probability.
          seed: of the draws.
          stop: string, or strings, that end an answer.
          batch_size: prompts at a time.

        Returns:
          Texts; arrays of tokens where the prompts are tokens.

        Raises:
          InputError: an empty or too long prompt, or a setting out of range.
        """
        check_several(prompts)
        sampling = Sampling(temperature, top_k, top_p, seed)
        tokens = []
        for row, prompt in enumerate(prompts):
            try:
                tokens.append(self.encode(prompt))
            except InputError as error:
                raise InputError(f"prompt {row}: {error}") from error
        answers = self._generator.generate(tokens, sampling, max_new_tokens, batch_size, stop)
        if all(is_text(prompt) for prompt in prompts):
            return [answer.text for answer in answers]
        return [np.array(answer.tokens, np.int32) for answer in answers]

    def warm_up(
        self,
        prompt_lengths: Sequence[int],
        batch_sizes: Sequence[int] = (1,),
        max_new_tokens: int = 256,
    ) -> None:
        """Compiles what answers to prompts of these lengths take, before they are asked for.

        >>> pair.warm_up(range(1, 25), batch_sizes=(1, 3), max_new_tokens=8)

        Args:
          prompt_lengths: tokens; a few neighbouring lengths share what is compiled.
          batch_sizes: prompts answered at once: `stream` answers 1, `generate` up to `batch_size`.
          max_new_tokens: as of the answers to come.

        Raises:
          InputError: a number below 1, or lengths beyond the models'.
        """
        self._generator.warm_up(prompt_lengths, batch_sizes, max_new_tokens)

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
    ) -> Iterator[str]:
        """The answer to one prompt in pieces, as they are written; settings as in `generate`.

        >>> text = ""
        >>> for piece in pair.stream("Hello!", max_new_tokens=8):
        ...     text += piece
        >>> [text] == pair.generate(["Hello!"], max_new_tokens=8)
        True
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        return self._generator.stream(self.encode(prompt), sampling, max_new_tokens, stop)

    def engine(
        self,
        slots: int = 32,
        length: int = 2048,
        queue: int = 256,
        chunk: int = 512,
        prefill_mesh: Mesh | None = None,
        decode_mesh: Mesh | None = None,
    ) -> Engine:
        """Continuous batching: answers many requests at once, each as if it were alone.

        >>> from overfill_jax.inference.sampling import Sampling
        >>> engine = pair.engine(slots=2, length=96, queue=8, chunk=32)
        >>> greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
        >>> texts = ["Hello!", "How many has Ann?", "How many has Bob?"]
        >>> requests = [engine.submit(pair.encode(text), greedy, 8) for text in texts]
        >>> engine.run()
        >>> [r.answer().text for r in requests] == pair.generate(texts, max_new_tokens=8)
        True

        Args:
          slots: answers that are written at once, at most.
          length: tokens of prompt and answer together that a slot holds.
          queue: requests that may wait.
          chunk: prompt tokens that are read between two steps of the answers.
          prefill_mesh: where the full model lives; if not given, where its weights lie.
          decode_mesh: where the decoder does; with the full model, if not given.

        Raises:
          InputError: a number below 1.
        """
        tokenizer = self.full.tokenizer
        reader, writer, _ = self._generator.pair  # laid out already
        return Engine(
            reader,
            writer,
            self.first_token,
            tokenizer.stop_ids,
            tokenizer,
            self.cache,
            Room(slots, length, queue, chunk),
            self.refresh,
            prefill_mesh,
            decode_mesh,
        )

    def encode(self, prompt: Prompt) -> list[int]:
        """Tokens of a prompt: text and conversations go through the chat template.

        >>> pair.encode("Hello!") == pair.encode([{"role": "user", "content": "Hello!"}])
        True

        The last message, if it is the assistant's, is the answer that is asked for, and left out.

        Raises:
          InputError: an empty message, a conversation without a user, or what is no prompt at all.
        """
        if is_text(prompt):
            return encode_prompt(messages_of(prompt), self.full.tokenizer, self.full.template)
        return tokens_of(prompt, expected="text, messages or a row of tokens")


_prefill = functools.partial(jax.jit, static_argnames="capacity")(two_stage.prefill)
_extend = jax.jit(two_stage.extend)
