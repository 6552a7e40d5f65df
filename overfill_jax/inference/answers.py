"""Answers on the host: where they end, and how much of their text is settled while they grow."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

from overfill_jax.data.tokenizers import TextStream, Tokenizer
from overfill_jax.errors import InputError

Reason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
      tokens: without the stop token; where a stop string ended the answer, the tokens that lie
        wholly before it.
      text: the decoded answer, up to the stop string; empty where no tokenizer is at hand.
      reason: `stop` for a stop token or string, `length` where max_new_tokens ran out.
    """

    tokens: list[int]
    text: str
    reason: Reason


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Strings that end an answer, of one or of whatever holds several.

    Raises:
      InputError: one is empty or no string.
    """
    try:
        found = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:  # not several
        found = (stop,)
    if strangers := [one for one in found if not isinstance(one, str)]:
        raise InputError(f"stop: found {strangers[0]!r}, expected strings")
    if "" in found:
        raise InputError("stop: found an empty string, which would end every answer at once")
    return found


class Draft:
    """An answer that grows until a stop token, a stop string or its length ends it."""

    def __init__(
        self,
        most: int,
        stop_ids: Sequence[int],
        stop: str | Sequence[str],
        tokenizer: Tokenizer | None,
    ):
        """Begins an empty answer of at most `most` tokens.

        Args:
          most: tokens, the stop token included.
          stop_ids: tokens that end it.
          stop: strings that end it, or one string; need a tokenizer.
          tokenizer: turns it into text.

        Raises:
          InputError: a stop string is empty or no string, or there is no tokenizer to find it with.
        """
        stop = stop_strings(stop)
        if stop and tokenizer is None:
            raise InputError(f"stop: found {stop[0]!r}, but there is no tokenizer to find it with")
        self._most = most
        self._stop_ids = frozenset(stop_ids)
        self._stop = stop
        self._decode = tokenizer and tokenizer.decode
        self._stream = tokenizer and TextStream(tokenizer)
        self._tokens: list[int] = []
        self._text = ""
        self._released = 0  # characters of the text that `release` has given out
        self._reason: Reason | None = None

    @property
    def ended(self) -> bool:
        """Nothing that `add` brings will be taken any more."""
        return self._reason is not None

    @property
    def written(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Takes the next tokens, up to where the answer ends."""
        if self.ended:
            return
        tokens = tokens[: self._most - len(self._tokens)]
        new = list(itertools.takewhile(lambda token: token not in self._stop_ids, tokens))
        self._tokens += new
        if len(new) < len(tokens):
            self._reason = "stop"
        elif len(self._tokens) == self._most:
            self._reason = "length"
        if self._stream is not None:
            self._text += self._stream.push(new)
            if self.ended:
                self._text += self._stream.finish()
            self._cut_at_stop_string()

    def release(self) -> str:
        """The text that has become certain since the last call: what may begin a stop string waits.

        Joined, the pieces are the answer's text once it has ended.
        """
        certain = len(self._text) if self.ended else len(self._text) - self._overlap()
        new = self._text[self._released : certain]
        self._released += len(new)
        return new

    def answer(self) -> Answer:
        """The answer, once it has ended."""
        return Answer(self._tokens, self._text, self._reason)

    def _cut_at_stop_string(self) -> None:
        # The one that is complete first, so that it does not matter how much comes at once.
        places = [(self._text.find(stop), len(stop)) for stop in self._stop]
        found = [(start + length, start) for start, length in places if start >= 0]
        if found:
            self._reason = "stop"
            self._text = self._text[: min(found)[1]]
            while len(self._decode(self._tokens)) > len(self._text):
                self._tokens.pop()

    def _overlap(self) -> int:
        # Length of the longest end of the text that some stop string begins with.
        lengths = (
            n for stop in self._stop for n in range(1, len(stop)) if self._text.endswith(stop[:n])
        )
        return max(lengths, default=0)
