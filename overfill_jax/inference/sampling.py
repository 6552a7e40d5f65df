"""How the next token is chosen from logits: greedy, temperature, top-k, top-p, seeds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt

from overfill_jax.errors import InputError
from overfill_jax.inference.arguments import real, whole


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A way to choose tokens.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token (greedy).
      top_k: only the k likeliest tokens may be drawn; 0 for no limit.
      top_p: only the likeliest tokens that together hold this probability, after top-k.
      seed: of all draws, in [0, 2**32); rows draw differently, but the same in any batch.

    Raises:
      InputError: names the field that is out of range.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int

    def __post_init__(self):
        # What float32 holds, in which logits are divided by it.
        largest = float(np.finfo(np.float32).max)
        if not 0 <= real(self.temperature) <= largest:
            raise InputError(f"temperature is {self.temperature!r}, expected a finite number >= 0")
        if not whole(self.top_k) >= 0:
            raise InputError(f"top_k is {self.top_k!r}, expected an integer >= 0 (0: no limit)")
        if not 0 < real(self.top_p) <= 1:
            raise InputError(f"top_p is {self.top_p!r}, expected a number in (0, 1]")
        if not 0 <= whole(self.seed) < 2**32:
            raise InputError(f"seed is {self.seed!r}, expected an integer in [0, 2**32)")

    def limits(self) -> dict[str, np.generic]:
        """The keyword arguments of `sample`, as values that one compiled function takes in turn."""
        # A vocabulary has fewer tokens than int32 counts, so the cut changes no meaning.
        top_k = np.int32(min(self.top_k, 2**31 - 1))
        temperature = np.float32(self.temperature)
        return {"temperature": temperature, "top_k": top_k, "top_p": np.float32(self.top_p)}


GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)


def row_keys(seed: UInt[Array, ""], rows: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key per row, which depends on the row's own number and never on its batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)


def sample(
    logits: Float[Array, "B V"],
    keys: Key[Array, "B"],
    step: Int[Array, "#B"] | Int[Array, ""] | int,
    temperature: Float[Array, "#B"] | Float[Array, ""],
    top_k: Int[Array, "#B"] | Int[Array, ""],
    top_p: Float[Array, "#B"] | Float[Array, ""],
) -> Int[Array, "B"]:
    """Chooses the next token of every row; the limits hold for all rows or are given per row.

    `keys` are those of `row_keys`, `step` numbers the token in its answer, for all rows or each.
    """
    rows = logits.shape[:1]
    temperature = jnp.broadcast_to(temperature, rows)
    top_k = jnp.broadcast_to(top_k, rows)
    top_p = jnp.broadcast_to(top_p, rows)
    greedy = jnp.argmax(logits, axis=-1)

    # Sorting a large vocabulary, and drawing from it, cost as much as a layer: both are skipped
    # at run time where no row asks for them. Neither skip changes what another row draws.
    def draw():
        scaled = _scale(logits, temperature, top_k, top_p)
        step_keys = jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(step, rows))
        drawn = jax.vmap(jax.random.categorical)(step_keys, scaled)
        return jnp.where(temperature > 0, drawn, greedy)

    return jax.lax.cond(jnp.any(temperature > 0), draw, lambda: greedy).astype(jnp.int32)


def log_probabilities(
    logits: Float[Array, "B V"],
    temperature: Float[Array | np.generic, "#B"] | Float[Array | np.generic, ""],
    top_k: Int[Array | np.generic, "#B"] | Int[Array | np.generic, ""],
    top_p: Float[Array | np.generic, "#B"] | Float[Array | np.generic, ""],
) -> Float[Array, "B V"]:
    """What `sample` draws from; at temperature 0, where it does not draw, as at temperature 1."""
    rows = logits.shape[:1]
    limits = (jnp.broadcast_to(limit, rows) for limit in (temperature, top_k, top_p))
    return jax.nn.log_softmax(_scale(logits, *limits), axis=-1)


def _scale(
    logits: Float[Array, "B V"],
    temperature: Float[Array, "B"],
    top_k: Int[Array, "B"],
    top_p: Float[Array, "B"],
) -> Float[Array, "B V"]:
    # From the largest logit down, so that a temperature near 0 cannot overflow.
    scaled = logits - jnp.max(logits, axis=-1, keepdims=True)
    scaled /= jnp.where(temperature > 0, temperature, 1.0)[:, None]
    limited = jnp.any((top_k > 0) | (top_p < 1))
    return jax.lax.cond(limited, lambda: _limit(scaled, top_k, top_p), lambda: scaled)


def _limit(
    logits: Float[Array, "B V"], top_k: Int[Array, "B"], top_p: Float[Array, "B"]
) -> Float[Array, "B V"]:
    """-inf for every token that top-k and then top-p exclude; ties of the last one kept stay."""
    vocabulary = logits.shape[-1]
    falling = jnp.sort(logits, axis=-1, descending=True)
    kept = jnp.where(top_k > 0, jnp.minimum(top_k, vocabulary), vocabulary)
    within_k = jnp.arange(vocabulary) < kept[:, None]
    probability = jax.nn.softmax(jnp.where(within_k, falling, -jnp.inf), axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # Sums round: at top_p = 1 they could cut a tail that nobody asked to cut.
    within_p = (before < top_p[:, None]) | (top_p[:, None] >= 1)
    # The likeliest stays, whatever top_p has become in float32.
    last = jnp.maximum(jnp.sum(within_k & within_p, axis=-1, keepdims=True) - 1, 0)
    return jnp.where(logits >= jnp.take_along_axis(falling, last, axis=-1), logits, -jnp.inf)
