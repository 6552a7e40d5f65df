"""One request to the engine, from its arrival to its answer."""

from typing import Literal

import numpy as np

from overfill_jax.errors import InputError
from overfill_jax.inference.answers import Answer, Draft
from overfill_jax.inference.sampling import Sampling

Stage = Literal["queued", "reading", "writing", "ended", "cancelled"]


class Request:
    """A prompt with the answer that grows behind it; made by `Engine.submit`.

    Attributes:
      name: what errors call it.
      prompt: its tokens.
      sampling: how the answer's are chosen.
      max_new_tokens: how many there are at most.
    """

    def __init__(
        self,
        name: str,
        prompt: np.ndarray,
        sampling: Sampling,
        max_new_tokens: int,
        draft: Draft,
    ):
        self.name = name
        self.prompt = prompt
        self.sampling = sampling
        self.max_new_tokens = max_new_tokens
        self._draft = draft
        self._stage: Stage = "queued"
        self._cancelled_while: Stage | None = None

    @property
    def stage(self) -> Stage:
        """Where it stands; the last two are final."""
        return self._stage

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it."""
        return self._stage in ("ended", "cancelled")

    @property
    def written(self) -> int:
        """Tokens of the answer so far."""
        return self._draft.written

    def cancel(self) -> None:
        """Gives it up, wherever it stands; one that is over stays as it is.

        The engine frees its place before it does anything else.
        """
        if not self.is_over:
            self._cancelled_while, self._stage = self._stage, "cancelled"

    def release(self) -> str:
        """The text that has become certain since the last call; joined, that of the answer."""
        return self._draft.release()

    def answer(self) -> Answer:
        """What was written.

        Raises:
          InputError: it was cancelled, or has not ended yet.
        """
        if self._stage == "ended":
            return self._draft.answer()
        found = f"{self._stage}, {self.written} tokens written"
        if self._stage == "cancelled":
            found = f"cancelled while {self._cancelled_while}, {self.written} tokens written"
        raise InputError(f"{self.name}: found no answer ({found}), expected one that has ended")

    def move_to(self, stage: Stage) -> None:
        """For the engine: where it stands now."""
        self._stage = stage

    def take(self, tokens: list[int]) -> None:
        """For the engine: the answer's next tokens; one that was cancelled wants none."""
        if not self.is_over:
            self._draft.add(tokens)
            if self._draft.ended:
                self._stage = "ended"
