"""Attention over the cache, behind one function, and the choice of who computes it.

`attention_xla` is the reference and runs everywhere. The kernels `attention_splash` (TPU) and
`attention_cudnn` (NVIDIA GPU) never hold the [T, S] logits, and give the same within rounding.
"""

import functools

from absl import logging
from jaxtyping import Array, Float, Int

from overfill_jax.errors import InputError
from overfill_jax.model import attention_cudnn, attention_splash, attention_xla
from overfill_jax.model.layout import on_parts, platform

KERNELS = {"splash": attention_splash, "cudnn": attention_cudnn}
KERNEL_OF_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    offset: Int[Array, ""] | int,
    implementation: str,
    until: Int[Array, "B S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention in slot coordinates.

    New token t stands in slot `offset + t` and sees the slots up to its own that carry its
    segment, or a span of segments with its own among them. Segment 0 is padding and sees only
    itself's kind; its output is never read. Because causality is by slot, ragged prompts need no
    per-row mask other than the segments, and positions enter through the rotary embedding alone.

    Args:
      query: of the new tokens.
      key, value: of all slots, those of the new tokens included.
      query_segments, key_segments: the sequence that each belongs to; None where a row is one
        sequence from slot 0 on, padded on the right alone: causality keeps it from the padding.
      offset: slot of the first new token. A kernel is built for one offset: where it is not an
        `int` but traced, as in the decode loop, the reference computes.
      implementation: as `ModelConfig.attention`.
      until: the last segment that sees a slot, the first being that in `key_segments`; where not
        given, the first is the only one.

    Raises:
      InputError: a kernel is asked for by name that cannot run here.
      ValueError: no segments, though a row does not begin in slot 0.
    """
    if query_segments is None and not (until is None and isinstance(offset, int) and offset == 0):
        raise ValueError("attention without segments is that of whole sequences from slot 0 on")
    name = choose(implementation, query, key, offset, until)
    by_row = query_segments, key_segments, until
    if name == "xla":
        return attention_xla.attend(query, key, value, *by_row[:2], offset, until)
    given = [array for array in by_row if array is not None]

    def attend(grouped, key, value, *given):
        flat = grouped.reshape(*grouped.shape[:2], -1, grouped.shape[-1])
        segments, spans = given[:2] or (None, None), given[2:]
        mixed = KERNELS[name].attend(flat, key, value, *segments, offset, *spans)
        return mixed.reshape(grouped.shape)

    # Grouped, so that query heads lie where the kv heads that they read lie.
    grouped = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[3])
    keys, rows = ("batch", None, "kv_heads", None), ("batch", None)
    mixed = on_parts(
        attend,
        (grouped, key, value, *given),
        ((*keys, None), keys, keys, *(rows for _ in given)),
    )
    return mixed.reshape(query.shape)


def choose(
    implementation: str,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    offset: Int[Array, ""] | int,
    until: Int[Array, "B S"] | None = None,
) -> str:
    """Who computes `attention` of these: "xla", "splash" or "cudnn"."""
    # One token streams the cache once, whoever computes.
    if query.shape[1] == 1 or not isinstance(offset, int):
        return "xla"
    here = platform()
    name = KERNEL_OF_PLATFORM.get(here, "xla") if implementation == "auto" else implementation
    if name == "xla":
        return "xla"
    obstacle = KERNELS[name].obstacle(here, query, key, until)
    if obstacle is None:
        return name
    if implementation == name:
        raise InputError(f"attention is {name!r}, which {obstacle}")
    _log_once(f"attention is computed by xla, for {name} {obstacle}")
    return "xla"


@functools.cache
def _log_once(message: str) -> None:
    """Every layout of tokens is traced several times."""
    logging.info("%s", message)
