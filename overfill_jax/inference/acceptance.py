"""Which of a decoder's tokens the full model lets stand: speculative sampling, and its loosening.

Leviathan et al., arXiv 2211.17192. A drafted token with probability q from the decoder and p from
the full model stands with probability min(1, p / (s q)); the first one that falls is drawn anew
from the positive part of p - s q. At strictness s = 1 the answers are distributed as the full
model's own; towards 0 (their lenience, appendix A.5) more stands, and at 0 everything.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from overfill_jax.inference.sampling import log_probabilities


def accepted(
    drafted: Int[Array, "B k"],
    counts: Int[Array, "B"],
    draft_logits: Float[Array, "B k V"],
    full_logits: Float[Array, "B k_plus_1 V"],
    keys: Key[Array, "B k_plus_1"],
    limits: dict[str, Array],
    strictness: Float[Array, ""],
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """How many drafted tokens of each row stand, and the full model's token behind them.

    Args:
      drafted: tokens, each drawn from `draft_logits` at its place; row b holds `counts[b]`.
      counts: in 0..k.
      draft_logits: the decoder's.
      full_logits: the full model's at the same places, and behind the last.
      keys: of each place; not those that the tokens were drawn with.
      limits: temperature, top-k and top-p, which hold for both models. A greedy row's token stands
        where its probability, at temperature 1, is at least `strictness` times the likeliest's; at
        strictness 1 where it is the likeliest.
      strictness: s.
    """
    rows, places = drafted.shape
    temperature = jnp.broadcast_to(limits["temperature"], (rows,))
    every = {name: _of_places(value, rows, places) for name, value in limits.items()}
    flat = (rows * places, full_logits.shape[-1])
    p = log_probabilities(full_logits[:, :-1].reshape(flat), **every).reshape(draft_logits.shape)
    q = log_probabilities(draft_logits.reshape(flat), **every).reshape(draft_logits.shape)
    ratio = _at(p, drafted) - _at(q, drafted)  # of logarithms
    coins = jax.vmap(jax.vmap(jax.random.uniform))(keys[:, :-1])
    best = jnp.max(full_logits[:, :-1], axis=-1)
    near = _at(full_logits[:, :-1], drafted) >= best + jnp.log(strictness)
    # Of equal logits the full model takes the first.
    same = drafted == jnp.argmax(full_logits[:, :-1], axis=-1)
    stands = jnp.where(
        temperature[:, None] > 0,
        coins * strictness < jnp.exp(ratio),
        jnp.where(strictness < 1, near, same),
    )
    stands &= jnp.arange(places) < counts[:, None]
    kept = jnp.sum(jnp.cumprod(stands, axis=1), axis=1)
    return kept, _token_behind(kept, counts, q, full_logits, keys, limits, strictness)


def _token_behind(kept, counts, q, full_logits, keys, limits, strictness) -> Int[Array, "B"]:
    """The full model's token; where a drafted one fell, by what the decoder had not covered."""
    chosen = jnp.take_along_axis(full_logits, kept[:, None, None], axis=1)[:, 0]
    p = log_probabilities(chosen, **limits)
    fell = kept < counts
    place = jnp.minimum(kept, q.shape[1] - 1)
    q = jnp.take_along_axis(q, place[:, None, None], axis=1)[:, 0]
    rest = jnp.maximum(jnp.exp(p) - strictness * jnp.exp(q), 0.0)
    # Where rounding leaves nothing of it, the two agree, and p is as good.
    anew = fell[:, None] & (jnp.sum(rest, axis=-1, keepdims=True) > 0)
    draw_from = jnp.where(anew, jnp.log(rest), p)
    key = jnp.take_along_axis(keys, kept[:, None], axis=1)[:, 0]
    key = jax.vmap(jax.random.fold_in, (0, None))(key, 1)  # the coin was drawn with the key itself
    drawn = jax.vmap(jax.random.categorical)(key, draw_from)
    greedy = jnp.argmax(chosen, axis=-1)
    return jnp.where(limits["temperature"] > 0, drawn, greedy).astype(jnp.int32)


def unsure(logits: Float[Array, "B V"], most: Float[Array, ""]) -> Bool[Array, "B"]:
    """Whether the entropy (nats, at temperature 1) exceeds `most`."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1) > most


def _at(values: Float[Array, "B k V"], tokens: Int[Array, "B k"]) -> Float[Array, "B k"]:
    return jnp.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]


def _of_places(value: Array, rows: int, places: int) -> Array:
    return jnp.repeat(jnp.broadcast_to(value, (rows,)), places)
