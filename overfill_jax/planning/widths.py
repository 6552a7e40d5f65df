"""Widths that transformers loads and matrix units like, near those that a ratio gives."""

import dataclasses
import math

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.size import parameters

# Lanes of a TPU's and tiles of a GPU's matrix unit.
MULTIPLE = 128
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Width:
    """A pair of legal widths, and the decoder's parameters with them."""

    hidden: int
    intermediate: int
    parameters: int


def legal_widths(full: ModelConfig, decoder: ModelConfig) -> list[Width]:
    """Legal widths nearest to the decoder's hidden size, each with about its parameters.

    Hidden sizes are multiples of lcm(128, heads), since transformers wants heads to divide them;
    MLP widths multiples of 128. Neither is larger than in the full model.
    """
    wanted = parameters(decoder)
    unit = math.lcm(MULTIPLE, decoder.num_heads)
    hidden = sorted(
        range(unit, full.hidden_size + 1, unit), key=lambda size: abs(size - decoder.hidden_size)
    )
    widest = full.intermediate_size
    return [_nearest(decoder, size, wanted, widest) for size in hidden[:SHOWN]]


def _nearest(decoder: ModelConfig, hidden: int, wanted: int, widest: int) -> Width:
    """The MLP width that brings the parameters nearest to `wanted`, which grow linearly with it."""

    def size(intermediate: int) -> int:
        return parameters(
            dataclasses.replace(decoder, hidden_size=hidden, intermediate_size=intermediate)
        )

    base = size(MULTIPLE)
    per_unit = size(2 * MULTIPLE) - base
    most = max(1, widest // MULTIPLE)
    units = min(max(1 + round((wanted - base) / per_unit), 1), most)
    return Width(hidden, units * MULTIPLE, base + (units - 1) * per_unit)
