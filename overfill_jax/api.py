"""The public face for notebooks: the pipeline in a dozen names, on models held in memory.

Every function takes and gives what the stages write to a workdir, so that a notebook can start
where a job ended and the other way round.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from overfill_jax import two_stage
from overfill_jax.data.chat import ChatTemplate, encode_prompt, load_template
from overfill_jax.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
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
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.mesh import as_ours
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model
from overfill_jax.pruning.choose import choose
from overfill_jax.pruning.cut import cut
from overfill_jax.pruning.importance import Importance, measure_importance
from overfill_jax.pruning.norm_correction import correct_norms, measured_energy, norm_factors
from overfill_jax.pruning.sizes import check_removes, kept_sizes
from overfill_jax.pruning.stream import text_batches, token_batches
from overfill_jax.weights.folders import (
    check_dtype,
    fingerprint,
    load_config,
    load_fingerprint,
    load_model,
    load_origin,
    save_model,
)
from overfill_jax.weights.hugging_face_export import export_model
from overfill_jax.weights.origin import Origin, check_origin

# Slots that an answer gets at a time; `TwoStage.extend` adds more when they run out.
ANSWER_SLOTS = 128
Tokens = Int[Array | np.ndarray, "B T"]
Prompt = str | Sequence[dict] | Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with the tokenizer and the chat template that it came with.

    >>> full.tokenizer.decode(full.tokenizer.encode("Ann has 3."))
    'Ann has 3.'
    >>> full.config.hidden_size, full.params["embed"]["embedding"].shape
    (128, (256, 128))

    Attributes:
      model: config and weights.
      folder: where tokenizer and template lie.
      tokenizer: text to tokens and back.
      template: conversations to text.
      fingerprint: by which the model is recognised.
      origin: of a decoder, the full model that it belongs to and how it was trained.
    """

    model: Model
    folder: Path
    tokenizer: Tokenizer
    template: ChatTemplate
    fingerprint: str
    origin: Origin | None

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def params(self) -> dict:
        return self.model.params


def load(folder: str | Path, dtype: str | None = None, mesh: Mesh | None = None) -> LanguageModel:
    """Loads a Hugging Face folder or one of ours (a workdir's `full`, `pruned`, `decoder`).

    >>> overfill_jax.load("launch/quickstart_model", dtype="bfloat16").config.dtype
    'bfloat16'
    >>> import jax
    >>> mesh = jax.make_mesh((1, 1), ("data", "tensor"))  # copies, and parts of each
    >>> spread = overfill_jax.load("launch/quickstart_model", mesh=mesh)

    Args:
      folder: with config.json, weights and tokenizer.
      dtype: of weights and computation; as stored where not given.
      mesh: devices that share the model, with axes `data` (parts of a batch, each with whole copies
        of the weights) and `tensor` (parts of heads, MLP and vocabulary); pairs answer there, too.
        The first device alone, if not given.

    Raises:
      InputError: names the file, and what is missing, broken or not understood in it; a mesh with
        other axes.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    shardings = None
    if mesh is not None:
        shardings = weight_shardings(load_config(folder), as_ours(mesh))
    model = load_model(folder, dtype, shardings)
    check_vocabulary(tokenizer, model.config.vocab_size, str(folder))
    identity = load_fingerprint(folder) or fingerprint(model)
    template, origin = load_template(folder), load_origin(folder)
    return LanguageModel(model, folder, tokenizer, template, identity, origin)


def calibrate(
    full: LanguageModel,
    text: Iterable[str] | Iterable[Tokens] | Tokens,
    statistic: str = "signed_mean",
    sample_norm: str = "l2",
    length: int = 512,
    batch_size: int = 8,
    dtype: str = "float32",
) -> Importance:
    """Measures how much each channel matters, in one pass.

    >>> importance = overfill_jax.calibrate(full, ["Ann has 3.", "Bob has 4 and wins 5."])
    >>> importance.hidden.shape, importance.intermediate.shape
    ((128,), (4, 320))

    Args:
      full: the model that is to be pruned.
      text: one sample a string, read as they are needed; or tokens without padding, as one
        [B, T] array or batches of them.
      statistic: over a sample: signed_mean (the paper's), abs_mean, rms or weighted.
      sample_norm: over the samples: l2 (the paper's) or l1.
      length: tokens at which samples given as text are cut.
      batch_size: samples at a time, for text.
      dtype: of the computation, whatever the weights are kept in.

    Raises:
      InputError: unknown statistic, norm or dtype, nothing to measure, tokens that the model lacks.
    """
    check_dtype("calibrate: dtype", dtype)
    for name, value in (("length", length), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"calibrate: {name} is {value}, expected at least 1")
    if isinstance(text, str):
        raise InputError(
            "calibrate: text is one string, expected a list of strings or an open file"
        )
    samples = iter([text] if isinstance(text, (np.ndarray, jax.Array)) else text)
    first = list(itertools.islice(samples, 1))
    samples = itertools.chain(first, samples)
    if first and isinstance(first[0], str):
        batches = text_batches(samples, full.tokenizer, length, batch_size)
    else:
        batches = token_batches(samples, full.config.vocab_size)
    config = dataclasses.replace(full.config, dtype=dtype)
    model = dataclasses.replace(full.model, config=config)
    importance = measure_importance(model, batches, statistic, sample_norm)
    provenance = importance.provenance | {"model": full.fingerprint, "dtype": dtype}
    return dataclasses.replace(importance, provenance=provenance)


def prune(
    full: LanguageModel,
    importance: Importance | None,
    hidden: float | int = 0.45,
    intermediate: float | int = 0.45,
    multiple_of: int = 1,
    selection: str = "importance",
    seed: int = 0,
    heads: float | int = 0.0,
    kv_heads: float | int = 0.0,
    depth: float | int = 0.0,
    layers: str | Sequence[int] = "importance",
    norm_correction: bool = False,
) -> LanguageModel:
    """Cuts the full model down to its decoder, which still has to be trained.

    >>> decoder = overfill_jax.prune(full, importance, hidden=64, intermediate=0.5)
    >>> decoder.config.hidden_size, decoder.config.intermediate_size
    (64, 160)
    >>> shallow = overfill_jax.prune(full, importance, heads=0.5, depth=0.25, layers="firstlast")
    >>> shallow.config.group_size, shallow.config.handoff.layers
    (1, (0, 1, 3))

    Args:
      full: the model that `importance` was measured on.
      importance: of `calibrate`; None for a selection that looks at none.
      hidden, intermediate: shares to remove, in [0, 1), or whole widths to keep.
      multiple_of: widths that follow from a share are rounded down to it.
      selection: of channels and heads: importance, random or first.
      seed: of random selections.
      heads, kv_heads, depth: shares to remove, or whole numbers to keep, of the query heads of each
        kv head, of the kv heads and of the layers.
      layers: importance, random, first, last, firstlast, or the layers to keep.
      norm_correction: scales the norms by what the cut does to their divisors.

    Raises:
      InputError: a size or layer that does not exist, or importance of another model, or none that
        the norms could be corrected by.
    """
    if importance is not None and importance.provenance.get("model") != full.fingerprint:
        raise InputError("prune: the importance was measured on another model")
    sizes = kept_sizes(
        full.config, hidden, intermediate, multiple_of, heads, kv_heads, depth, layers
    )
    check_removes(full.config, sizes)
    energy = measured_energy(importance) if norm_correction else None
    kept = choose(full.config, importance, sizes, selection, layers, seed)
    model = cut(full.model, kept)
    if energy is not None:
        model = correct_norms(model, norm_factors(energy, kept))
    origin = Origin(full.fingerprint, first_token=None)
    return dataclasses.replace(full, model=model, fingerprint=fingerprint(model), origin=origin)


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
          InputError: the decoder cannot read the full model's cache, or was made for another full
            model or first token.
        """
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
          slots: answers that are written at once.
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


def save(model: LanguageModel, folder: str | Path) -> None:
    """Writes a folder that `load` and the stages read.

    >>> overfill_jax.save(decoder, "runs/mine/pruned")
    >>> overfill_jax.load("runs/mine/pruned").fingerprint == decoder.fingerprint
    True
    """
    save_model(Path(folder), model.model, model.folder, model.origin)


def export(
    model: LanguageModel,
    folder: str | Path,
    allow_illegal_widths: bool = False,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a Hugging Face folder.

    >>> overfill_jax.export(decoder, "hf_folder")
    >>> overfill_jax.load("hf_folder").config == decoder.config
    True

    Raises:
      InputError: a width that transformers refuses to load, with the next legal ones; unless
        `allow_illegal_widths`.
    """
    export_model(model.model, Path(folder), model.folder, shard_bytes, allow_illegal_widths)


_prefill = functools.partial(jax.jit, static_argnames="capacity")(two_stage.prefill)
_extend = jax.jit(two_stage.extend)
