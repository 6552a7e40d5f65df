"""Refresh: the full model reads what the decoder wrote, and its entries take the place of those.

The paper's open question. An answer is written in blocks: the decoder drafts, then the full model
reads the block's tokens in one parallel step, as if they had been part of the prompt, and gives the
next token. So the decoder always goes on from where it was trained to: the full model's cache, and
a token of the full model's. A block of one token is the full model alone; one that never ends is
two-stage decoding without refresh. In between, `Refresh.strictness` says how much of a draft the
full model has to agree with.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from overfill_jax.errors import InputError
from overfill_jax.inference.acceptance import accepted, unsure
from overfill_jax.inference.arguments import real, whole
from overfill_jax.inference.compiled import NO_TOKEN, Writing, compilations
from overfill_jax.inference.placement import keep
from overfill_jax.inference.sampling import sample
from overfill_jax.inference.serving_cache import ServingCache
from overfill_jax.inference.serving_model import ServingModel, extend, logits_of
from overfill_jax.two_stage import crossing


@dataclasses.dataclass(frozen=True)
class Refresh:
    """When the full model reads again, and what it lets stand.

    >>> lossless = overfill_jax.Refresh(interval=8, strictness=1.0)
    >>> careful = overfill_jax.TwoStage(full, decoder, refresh=lossless)
    >>> alone = overfill_jax.TwoStage(full, full)
    >>> careful.generate(["Hello!"], max_new_tokens=8) == alone.generate(
    ...     ["Hello!"], max_new_tokens=8
    ... )
    True

    Attributes:
      interval: R, answer tokens from one refresh to the next: at most R - 1 drafted by the
        decoder, one given by the full model.
      entropy: nats of the decoder's distribution above which it leaves the token to the full
        model, so that the block ends early; infinity where only `interval` counts.
      strictness: in [0, 1]; 0 lets every drafted token stand, 1 only what the full model would
        have written itself.
    """

    interval: int
    entropy: float = math.inf
    strictness: float = 0.0

    def __post_init__(self):
        if not whole(self.interval) >= 1:
            raise InputError(
                f"refresh: interval is {self.interval!r}, expected a whole number of at least 1"
            )
        if not real(self.entropy) > 0:
            raise InputError(f"refresh: entropy is {self.entropy!r}, expected a number above 0")
        if not 0 <= real(self.strictness) <= 1:
            raise InputError(f"refresh: strictness is {self.strictness!r}, expected 0 to 1")

    def check_answer(self, max_new_tokens: int) -> None:
        """Refuses an interval that no answer reaches.

        Raises:
          InputError: says both.
        """
        if self.interval > max_new_tokens:
            raise InputError(
                f"refresh: interval is {self.interval}, but an answer has at most "
                f"{max_new_tokens} tokens; expected no more than that, or no refresh"
            )

    @property
    def verifies(self) -> bool:
        """Whether there is a draft of which anything can fall."""
        return self.strictness > 0 and self.interval > 1

    def arguments(self) -> dict[str, np.float32 | int | bool]:
        """The keyword arguments of `write_block`: one compiled function takes all thresholds."""
        entropy = min(self.entropy, np.finfo(np.float32).max)
        thresholds = {"entropy": np.float32(entropy), "strictness": np.float32(self.strictness)}
        return thresholds | {"interval": self.interval, "verifies": self.verifies}


@dataclasses.dataclass
class Tally:
    """What has become of all drafts so far.

    Attributes:
      blocks: times that the reader read a row's block again.
      drafted: tokens that the writer had proposed in them.
      kept: those that the reader let stand.
    """

    blocks: int = 0
    drafted: int = 0
    kept: int = 0

    def count(self, live: np.ndarray, new: Array, drafted: Array) -> None:
        """Adds what `write_block` returned for the rows that are `live`."""
        self.blocks += int(live.sum())
        self.drafted += int(np.asarray(drafted)[live].sum())
        self.kept += int((np.asarray(new)[live] != NO_TOKEN).sum() - live.sum())


class _Drafted(NamedTuple):
    """What the decoder has drafted of a block: row b holds `counts[b]` tokens."""

    cache: ServingCache
    token: Int[Array, "B"]
    going_on: Bool[Array, "B"]
    counts: Int[Array, "B"]
    tokens: Int[Array, "B k"]
    logits: Float[Array, "B k V"]
    index: Int[Array, ""]


@functools.partial(
    jax.jit, static_argnames=("interval", "verifies", "seen"), donate_argnames="writing"
)
def write_block(
    reader: ServingModel,
    writer: ServingModel,
    writing: Writing,
    ended: Bool[Array, "B"],
    limits: dict[str, Array],
    stop_ids: Int[Array, "stops"],
    entropy: Float[Array, ""],
    strictness: Float[Array, ""],
    interval: int,
    verifies: bool,
    seen: int | None = None,
) -> tuple[Writing, Int[Array, "B R"], Int[Array, "B"]]:
    """Drafts with the writer, reads the block with the reader, and keeps what stands.

    The cache has `interval` slots left in every row that goes on; with `seen` they are among the
    first so many, and the others are not read. Rows that have `ended` are begun anew, as nothing
    reads them any more.

    Returns:
      The new tokens with NO_TOKEN behind those of a row, and how many were drafted.
    """
    compilations["write_block"] += 1
    # Behind its end a row may have fewer slots left than a block is going to write.
    start = jnp.where(ended, 0, writing.cache.lengths)
    writing = dataclasses.replace(writing, cache=dataclasses.replace(writing.cache, lengths=start))
    draft = _draft(writer, writing, ended, limits, stop_ids, entropy, interval, verifies, seen)
    block = jnp.concatenate([writing.token[:, None], draft.tokens], axis=1)
    # Where the decoder's cache is not just the full model's, this has one of its own to read on in.
    before = draft.cache if writing.full is None else writing.full
    before = dataclasses.replace(before, lengths=start)
    wanted = None if verifies else draft.counts
    hidden, read = extend(reader, block, before, seen, wanted)
    if verifies:
        keys = _keys_of_places(writing, interval)
        full_logits = logits_of(reader, hidden)
        kept, token = accepted(
            draft.tokens, draft.counts, draft.logits, full_logits, keys, limits, strictness
        )
    else:
        kept = draft.counts
        token = sample(logits_of(reader, hidden[:, 0]), writing.keys, writing.step + kept, **limits)
    new = jnp.where(ended, 0, kept + 1)
    places = jnp.arange(interval)
    tokens = jnp.pad(draft.tokens, ((0, 0), (0, 1)))
    tokens = jnp.where(places == kept[:, None], token[:, None], tokens)
    tokens = jnp.where(places < new[:, None], tokens, NO_TOKEN)
    cache, full = read, None
    if writing.full is not None:
        handoff = crossing(reader.config, writer.config)
        cache, full = draft.cache.refreshed(read, handoff, start, interval), read
    cache = dataclasses.replace(cache, lengths=start + new)
    writing = Writing(cache, token, writing.keys, writing.step + new, full)
    return keep(writing), tokens, draft.counts


def _draft(writer, writing, ended, limits, stop_ids, entropy, interval, verifies, seen) -> _Drafted:
    """At most interval - 1 tokens of each row; a row stops where it is unsure or at its end."""
    rows = len(ended)
    places = interval - 1 if verifies else 0  # logits are kept only where they are asked for

    def more(draft: _Drafted):
        return (draft.index < interval - 1) & jnp.any(draft.going_on)

    def step(draft: _Drafted) -> _Drafted:
        hidden, cache = extend(writer, draft.token[:, None], draft.cache, seen)
        logits = logits_of(writer, hidden[:, 0])
        token = sample(logits, writing.keys, writing.step + draft.index, **limits)
        going_on = draft.going_on & ~unsure(logits, entropy)
        counts = draft.counts + going_on
        lengths = draft.cache.lengths + draft.going_on
        return _Drafted(
            cache=dataclasses.replace(cache, lengths=lengths),
            token=jnp.where(going_on, token, draft.token),
            going_on=going_on & ~jnp.isin(token, stop_ids),
            counts=counts,
            tokens=draft.tokens.at[:, draft.index].set(token),
            logits=draft.logits.at[:, draft.index].set(logits) if verifies else draft.logits,
            index=draft.index + 1,
        )

    vocabulary = writer.config.vocab_size
    empty = _Drafted(
        cache=writing.cache,
        token=writing.token,
        going_on=~ended,
        counts=jnp.zeros(rows, jnp.int32),
        tokens=jnp.zeros((rows, interval - 1), jnp.int32),
        logits=jnp.zeros((rows, places, vocabulary), jnp.float32),
        index=jnp.int32(0),
    )
    return jax.lax.while_loop(more, step, empty) if interval > 1 else empty


def _keys_of_places(writing: Writing, interval: int):
    """Of each place of a block, apart from those that its token is drawn with."""

    def key(key, step):
        return jax.random.fold_in(jax.random.fold_in(key, step), 1)

    steps = writing.step[:, None] + jnp.arange(interval)
    return jax.vmap(jax.vmap(key, (None, 0)))(writing.keys, steps)


def find_refresh(policy: str, interval: int, entropy: float, strictness: float) -> Refresh | None:
    """The policy of this name; None for none.

    Raises:
      InputError: the name is not one of none, every and entropy, or a number is out of range.
    """
    if policy == "none":
        return None
    if policy == "every":
        return Refresh(interval, math.inf, strictness)
    if policy == "entropy":
        return Refresh(interval, entropy, strictness)
    raise InputError(f"refresh: found {policy!r}, expected none, every or entropy")
