"""How much of a model stays: shares to remove, or counts to keep, as whole numbers.

Reference: `pruner/pruners_llama.py`; kept width `int((1 - ratio) * size)`.
"""

import dataclasses
import operator
from collections.abc import Sequence

from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig

SELECTIONS = ("importance", "random", "first")
LAYER_SELECTIONS = (*SELECTIONS, "last", "firstlast")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many stay: hidden and MLP channels, layers, kv heads, query heads of each kv head."""

    hidden: int
    intermediate: int
    layers: int
    kv_heads: int
    group: int


def sizes_of(config: ModelConfig) -> Sizes:
    """Those of a whole model."""
    c = config
    return Sizes(c.hidden_size, c.intermediate_size, c.num_layers, c.num_kv_heads, c.group_size)


def kept_sizes(
    config: ModelConfig,
    hidden: float | int,
    intermediate: float | int,
    multiple_of: int,
    heads: float | int,
    kv_heads: float | int,
    depth: float | int,
    layers: str | Sequence[int],
) -> Sizes:
    """What stays of a model of this shape.

    Args:
      config: of the full model.
      hidden, intermediate, multiple_of: as `amount` and `multiple_of` of `kept_width`.
      heads: as `amount`, of the query heads of each kv head that stays; 0 removes none.
      kv_heads: as `amount`; their query heads go with them.
      depth: as `amount`, of the layers.
      layers: the setting that says which; where it names some, `depth` may be 0.

    Raises:
      InputError: one of them does not exist.
    """
    whole = sizes_of(config)
    given = given_layers(layers, config.num_layers)
    kept = _kept_count("prune.depth", whole.layers, depth)
    if given is not None:
        if depth and kept != len(given):
            raise InputError(
                f"prune.depth: found {depth:g}, which keeps {kept} layers, but prune.layers names "
                f"{len(given)}; expected 0 or as many"
            )
        kept = len(given)
    return Sizes(
        kept_width("prune.hidden", whole.hidden, hidden, multiple_of),
        kept_width("prune.intermediate", whole.intermediate, intermediate, multiple_of),
        kept,
        _kept_count("prune.kv_heads", whole.kv_heads, kv_heads),
        _kept_count("prune.heads", whole.group, heads),
    )


def kept_width(name: str, size: int, amount: float | int, multiple_of: int) -> int:
    """How many of `size` channels stay.

    Args:
      name: what an error calls the setting.
      size: channels of the full model.
      amount: a share to remove, in [0, 1); or, as a whole number from 1 on, the width to keep. A
        float of exactly 1.0 is refused rather than guessed at, and so is a width of 0; 0.0 is the
        share that removes nothing.
      multiple_of: a width that follows from a share is rounded down to a multiple of it.

    Raises:
      InputError: neither such a share nor such a width.
    """
    if multiple_of < 1:
        raise InputError(f"prune.multiple_of: found {multiple_of}, expected at least 1")
    if isinstance(amount, int) or amount > 1:
        if not 1 <= amount <= size or amount != int(amount):
            raise InputError(
                f"{name}: found width {amount:g}, expected a whole number from 1 to {size}, "
                "or a ratio in [0, 1)"
            )
        return int(amount)
    if not 0 <= amount < 1:
        raise InputError(f"{name}: found ratio {amount:g}, expected one in [0, 1)")
    width = int((1 - amount) * size) // multiple_of * multiple_of
    if not width:
        raise InputError(
            f"{name}: ratio {amount:g} of {size} channels leaves no multiple of {multiple_of}"
        )
    return width


def given_layers(layers: str | Sequence[int], count: int) -> list[int] | None:
    """The layers that a setting names one by one; None where it is one of `LAYER_SELECTIONS`.

    Args:
      layers: such a selection, numbers, or a text such as "0,1,30".
      count: layers of the full model.

    Raises:
      InputError: neither, or not some of the model's layers in ascending order.
    """
    text = isinstance(layers, str)
    if text and layers in LAYER_SELECTIONS:
        return None
    try:
        found = list(map(int, layers.split(","))) if text else list(map(operator.index, layers))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"prune.layers: found {layers!r}, expected one of {LAYER_SELECTIONS}, or layers such "
            "as '0,1,5'"
        ) from error
    if not found or found != sorted(set(found)) or not 0 <= found[0] <= found[-1] < count:
        raise InputError(
            f"prune.layers: found {layers!r}, expected some of the layers 0..{count - 1}, ascending"
        )
    return found


def check_removes(config: ModelConfig, sizes: Sizes) -> None:
    """Refuses sizes at which everything stays.

    Raises:
      InputError: names the settings that remove something.
    """
    if sizes == sizes_of(config):
        raise InputError(
            "prune: found hidden, intermediate, heads, kv_heads and depth that keep every channel, "
            "head and layer, expected one of them to remove some"
        )


def _kept_count(name: str, size: int, amount: float | int) -> int:
    """`kept_width` of heads or layers, of which 0 removes none, and a single one may stay."""
    return size if amount == 0 else kept_width(name, size, 1 if amount == 1 else amount, 1)
