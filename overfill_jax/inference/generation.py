"""Answers to prompts from a pair of models: batches, buckets, and the loop on the host.

Paper, section 3: the full model reads, the decoder writes from its cache. A model alone is the
pair whose reader and writer are the same, and takes the same path.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm.auto import tqdm

from overfill_jax import two_stage
from overfill_jax.data.tokenizers import Ids, Tokenizer
from overfill_jax.errors import InputError
from overfill_jax.inference.answers import Answer, Draft, stop_strings
from overfill_jax.inference.arguments import positive_numbers
from overfill_jax.inference.buckets import bucket, multiple
from overfill_jax.inference.compiled import (
    CHUNK,
    NO_TOKEN,
    Pairing,
    Writing,
    read_prompts,
    write_chunk,
)
from overfill_jax.inference.placement import mesh_of
from overfill_jax.inference.refresh import Refresh, Tally, write_block
from overfill_jax.inference.sampling import GREEDY, Sampling
from overfill_jax.inference.serving_model import ServingModel, lay_out
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import parts
from overfill_jax.model.transformer import Model

# Tokens between two looks at the answer when somebody watches it appear.
STREAMED_CHUNK = 4
SMALLEST_PROMPT_BUCKET = 16
FIRST_ANSWER_SLOTS = 128


class Generator:
    """Writes answers to prompts."""

    def __init__(
        self,
        reader: Model,
        writer: Model,
        first_token: str,
        stop_ids: Sequence[int],
        pad_id: int,
        tokenizer: Tokenizer | None = None,
        refresh: Refresh | None = None,
        cache: str = "",
        mesh: Mesh | None = None,
    ):
        """Joins two models.

        Args:
          reader: reads the prompts; in two-stage decoding the full model.
          writer: writes the answers from the reader's cache; the decoder, or `reader` itself.
          first_token: who gives an answer's first token, `full` (the reader) or `decoder`.
          stop_ids: tokens that end an answer.
          pad_id: fills the slots behind shorter prompts; any token will do.
          tokenizer: turns answers into text; None where they are wanted as tokens only.
          refresh: when the reader reads again what the writer wrote; None for never.
          cache: "int8" for a cache of integers; "" for one in the dtype of the computation.
          mesh: devices that share weights and rows; None for those that hold the reader's weights.

        Raises:
          InputError: the writer cannot read the reader's cache, or `first_token` is neither.
        """
        check_pair(reader.config, writer.config, first_token, cache)
        self.mesh = mesh or mesh_of(reader)
        self._reader = lay_out(reader, self.mesh)
        self._writer = self._reader if writer is reader else lay_out(writer, self.mesh)
        self._stop_ids = np.asarray(stop_ids, np.int32)
        self._pad_id = pad_id
        self._tokenizer = tokenizer
        self._refresh = refresh
        self._how = Pairing(
            kept=two_stage.crossing(reader.config, writer.config),
            dtype=cache or writer.config.dtype,
            first_token=first_token,
            reads_on=refresh is not None,
        )
        self.tally = Tally()

    @property
    def pair(self) -> tuple[ServingModel, ServingModel, Pairing]:
        """Reader and writer as laid out for serving, and how the cache goes from one to other."""
        return self._reader, self._writer, self._how

    @property
    def refresh(self) -> Refresh | None:
        """When the reader reads again what the writer wrote."""
        return self._refresh

    def generate(
        self,
        prompts: Sequence[Ids],
        sampling: Sampling,
        max_new_tokens: int,
        batch_size: int,
        stop: str | Sequence[str] = (),
        show_progress: bool = False,
    ) -> list[Answer]:
        """One answer to each prompt, in their order; a row draws by its place among the prompts.

        Raises:
          InputError: as `check_prompt`; a stop string is empty or there is no tokenizer to find it
            with; the batch holds no row.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        for row, prompt in enumerate(prompts):
            self.check_prompt(prompt, max_new_tokens, f"prompt {row}")
        stop = stop_strings(stop)  # of an iterator, too, for all prompts
        drafts = [self.draft(max_new_tokens, stop) for _ in prompts]
        # Prompts of like length share a batch, so that little of it is padding.
        by_length = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        with tqdm(total=len(prompts), unit=" answers", disable=not show_progress) as bar:
            for start in range(0, len(prompts), batch_size):
                batch = {row: drafts[row] for row in by_length[start : start + batch_size]}
                size = min(bucket(len(batch), smallest=1), batch_size)
                for _ in self.grow(batch, prompts, size, sampling, max_new_tokens, CHUNK):
                    pass
                bar.update(len(batch))
        return [draft.answer() for draft in drafts]

    def stream(
        self,
        prompt: Ids,
        sampling: Sampling,
        max_new_tokens: int,
        stop: str | Sequence[str] = (),
    ) -> Iterator[str]:
        """The text of one answer, in pieces as it is written; joined, that of `generate`.

        Raises:
          InputError: as `generate`.
        """
        self.check_prompt(prompt, max_new_tokens, "prompt")
        draft = self.draft(max_new_tokens, stop)
        for _ in self.grow({0: draft}, [prompt], 1, sampling, max_new_tokens, STREAMED_CHUNK):
            if text := draft.release():
                yield text

    def check_prompt(self, prompt: Ids, max_new_tokens: int, name: str) -> None:
        """Refuses a prompt that one of the two models cannot answer; see the function.

        Raises:
          InputError: as the function; an answer is too short for the refresh.
        """
        if self._refresh is not None:
            self._refresh.check_answer(max_new_tokens)
        for model in (self._reader, self._writer):
            check_prompt(prompt, max_new_tokens, model.config, name)

    def draft(self, max_new_tokens: int, stop: str | Sequence[str] = ()) -> Draft:
        """An empty answer, to be grown.

        Raises:
          InputError: a stop string is empty, or there is no tokenizer to find it with.
        """
        return Draft(max_new_tokens, self._stop_ids.tolist(), stop, self._tokenizer)

    def grow(
        self,
        drafts: dict[int, Draft],
        prompts: Sequence[Ids],
        size: int,
        sampling: Sampling,
        max_new_tokens: int,
        chunk: int,
    ) -> Iterator[None]:
        """Writes the drafts of some rows in one batch; yields each time they have grown.

        Args:
          drafts: by row.
          prompts: of all rows.
          size: rows of the batch, at least; those without a draft only fill it.
          sampling: how tokens are chosen.
          max_new_tokens: as of the drafts.
          chunk: most tokens between two looks at them.
        """
        at_once, most = self._reach(chunk, max_new_tokens)
        tokens, lengths = self.padded([prompts[row] for row in drafts], size)
        size = len(tokens)
        # Rows that only fill the batch repeat the others' numbers; nobody reads what they draw.
        rows, limits = np.resize(np.array(list(drafts), np.int32), size), sampling.limits()
        slots = tokens.shape[1] + answer_slots(1 + at_once, most)
        writing = self._read(tokens, lengths, sampling.seed, rows, limits, slots)
        new = np.full((size, 1), NO_TOKEN)
        if self._how.first_token == "full":
            new = np.asarray(writing.token)[:, None]
        while True:
            for draft, row in zip(drafts.values(), np.asarray(new), strict=False):
                draft.add(row[row != NO_TOKEN].tolist())
            yield
            ended = np.ones(size, bool)  # as those that only fill the batch are from the start
            ended[: len(drafts)] = [draft.ended for draft in drafts.values()]
            if ended.all():
                return
            written = [draft.written for draft in drafts.values() if not draft.ended]
            # The first token is not kept waiting, whoever gives it.
            steps = min(at_once, max_new_tokens - min(written)) if any(written) else 1
            slots = tokens.shape[1] + answer_slots(max(written) + at_once, most)
            writing, new = self._write(self._grown(writing, slots), ended, limits, steps)

    def warm_up(
        self,
        prompt_lengths: Sequence[int],
        batch_sizes: Sequence[int],
        max_new_tokens: int,
        show_progress: bool = False,
    ) -> None:
        """Compiles what answers take, and runs it once; memory that is lacking shows here.

        Prompts in the buckets of these lengths are then answered without a compilation, however
        the tokens are chosen.

        Args:
          prompt_lengths: tokens.
          batch_sizes: prompts that are answered at once. `generate` fills batches of its
            `batch_size`; of what is left it makes one of the size of a bucket.
          max_new_tokens: as of the prompts to come.
          show_progress: on the console.

        Raises:
          InputError: no numbers, one below 1, or lengths beyond the models'.
        """
        prompt_lengths = positive_numbers("warm_up: prompt_lengths", prompt_lengths)
        batch_sizes = positive_numbers("warm_up: batch_sizes", batch_sizes)
        self.check_prompt([0] * max(prompt_lengths), max_new_tokens, "warm_up")
        at_once, most = self._reach(CHUNK, max_new_tokens)
        batches = {
            tokens.shape: (tokens, lengths)
            for size in batch_sizes
            for prompt in sorted({bucket(n, SMALLEST_PROMPT_BUCKET) for n in prompt_lengths})
            for tokens, lengths in [self.padded([[0] * prompt] * size, size)]
        }
        for tokens, lengths in tqdm(batches.values(), unit=" shapes", disable=not show_progress):
            rows, limits = np.zeros(len(tokens), np.int32), GREEDY.limits()
            ended, slots = np.ones(len(tokens), bool), answer_slots(1 + at_once, most)
            writing = self._read(tokens, lengths, 0, rows, limits, tokens.shape[1] + slots)
            while True:  # nothing is written, for every row has ended
                writing, new = self._write(writing, ended, limits, 1)
                if slots >= answer_slots(most, most):
                    break
                slots = answer_slots(slots + 1, most)
                writing = self._grown(writing, tokens.shape[1] + slots)
            jax.block_until_ready(new)

    def _reach(self, chunk: int, max_new_tokens: int) -> tuple[int, int]:
        """Tokens that an answer grows at once, at most, and that it has in the end."""
        if self._refresh is None:
            return chunk, max_new_tokens
        # A block may reach beyond the answer's end.
        return self._refresh.interval, max_new_tokens + self._refresh.interval

    def _read(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        seed: int,
        rows: np.ndarray,
        limits: dict,
        slots: int,
    ) -> Writing:
        with jax.set_mesh(self.mesh):
            return read_prompts(
                self._reader,
                tokens,
                lengths,
                seed=np.uint32(seed),
                rows=rows,
                limits=limits,
                how=self._how,
                slots=slots,
            )

    def _grown(self, writing: Writing, slots: int) -> Writing:
        if slots <= writing.cache.slots:
            return writing
        with jax.set_mesh(self.mesh):
            return writing.grow(slots)

    def _write(self, writing: Writing, ended: np.ndarray, limits: dict, steps: int):
        """The next tokens of every row, with NO_TOKEN behind a row's last."""
        with jax.set_mesh(self.mesh):
            if self._refresh is None:
                steps = np.int32(steps)
                return write_chunk(self._writer, writing, ended, limits, self._stop_ids, steps)
            writing, new, drafted = write_block(
                self._reader,
                self._writer,
                writing,
                ended,
                limits,
                self._stop_ids,
                **self._refresh.arguments(),
            )
        self.tally.count(~ended, new, drafted)
        return writing, new

    def padded(self, prompts: Sequence[Ids], size: int) -> tuple[np.ndarray, np.ndarray]:
        """Prompts [rows, slots] of one bucket and their lengths; rows of none fill the batch.

        Of those there are more than `size`, where that does not divide by the parts of the mesh.
        """
        size = multiple(size, parts("batch", self.mesh))
        slots = bucket(max(map(len, prompts)), SMALLEST_PROMPT_BUCKET)
        tokens = np.full((size, slots), self._pad_id, np.int32)
        lengths = np.zeros(size, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            lengths[row] = len(prompt)
        return tokens, lengths


def check_pair(reader: ModelConfig, writer: ModelConfig, first_token: str, cache: str) -> None:
    """Refuses two models that cannot answer together, and settings that are none.

    Raises:
      InputError: names the field or the setting.
    """
    two_stage.check_handoff(reader, writer)
    if first_token not in two_stage.FIRST_TOKEN:
        known = two_stage.FIRST_TOKEN
        raise InputError(f"first_token: found {first_token!r}, expected one of {known}")
    if cache not in ("", "int8"):
        raise InputError(f"cache: found {cache!r}, expected 'int8' or nothing")


def answer_slots(written: int, most: int) -> int:
    """Slots for answers of which so many tokens are to be written now, and `most` in the end.

    A step reads all the slots there are, so they are doubled as they are needed.
    """
    slots = min(FIRST_ANSWER_SLOTS, bucket(most, CHUNK))
    while slots < min(written, most):
        slots = min(2 * slots, bucket(most, CHUNK))
    return slots


def check_prompt(prompt: Ids, max_new_tokens: int, config: ModelConfig, name: str) -> None:
    """Refuses a prompt that a model of this shape cannot answer; `name` is what the error calls it.

    Raises:
      InputError: the prompt is empty, holds a token that the model lacks, or leaves no room for
        `max_new_tokens`; or those are no whole number, or below 1.
    """
    tokens = np.asarray(prompt)
    if not tokens.size:
        raise InputError(f"{name}: found no tokens, expected at least one")
    if not isinstance(max_new_tokens, int | np.integer):
        raise InputError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    strangers = tokens[(tokens < 0) | (tokens >= config.vocab_size)]
    if strangers.size:
        raise InputError(
            f"{name}: found token {strangers[0]}, expected 0 to {config.vocab_size - 1}"
        )
    if tokens.size + max_new_tokens > config.max_position:
        raise InputError(
            f"{name}: {tokens.size} tokens and {max_new_tokens} new ones make "
            f"{tokens.size + max_new_tokens}, the model's limit is {config.max_position}"
        )
