"""The KV cache: the only contract between the full model and the decoder (paper, section 3)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (rotated) and values of every layer, in slots that all rows fill in step.

    A prompt of any length takes slots 0..P of its row, right-padded; the answer's token t takes
    slot P + t in every row. Slots are storage: what a token sees is decided by `segments`, where
    it stands by its position.

    >>> import numpy as np
    >>> _, cache = pair.prefill(np.array([[5, 6, 7], [8, 9, 0]]), np.array([3, 2]))
    >>> cache.segments[:, :4].tolist(), cache.lengths.tolist()
    ([[1, 1, 1, 0], [1, 1, 0, 0]], [3, 2])

    Attributes:
      key, value: [L, B, S, K, H].
      segments: [B, S], 0 for an empty or padded slot, otherwise the number of the sequence that
        the slot belongs to.
      until: [B, S], the last of the sequences that a slot belongs to, where it belongs to several
        whose numbers follow each other, the first in `segments`; None where it is always one.
      lengths: [B], tokens of each row so far; also the position of its next token.
      cursor: the next slot to be written. A numpy integer from `prefill_hidden` until the cache
        enters a loop or another compiled function, which trace it.
    """

    key: Float[Array, "L B S K H"]
    value: Float[Array, "L B S K H"]
    segments: Int[Array, "B S"]
    lengths: Int[Array, "B"]
    cursor: Int[Array | np.integer, ""]
    until: Int[Array, "B S"] | None = None

    @property
    def capacity(self) -> int:
        """S: slots per row, filled or not."""
        return self.segments.shape[1]

    @property
    def known_cursor(self) -> int | None:
        """The cursor where it is known when compiling."""
        return int(self.cursor) if isinstance(self.cursor, np.integer) else None

    def grow(self, slots: int) -> "KVCache":
        """The same cache with `slots` empty slots behind it."""
        room = ((0, 0), (0, 0), (0, slots), (0, 0), (0, 0))
        segments, until = jax.tree.map(
            lambda of: jnp.pad(of, ((0, 0), (0, slots))), (self.segments, self.until)
        )
        return dataclasses.replace(
            self,
            key=jnp.pad(self.key, room),
            value=jnp.pad(self.value, room),
            segments=segments,
            until=until,
        )
