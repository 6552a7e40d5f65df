"""Which channels stay: widths from ratios, and index sets from importance.

Reference: `pruner/pruners_llama.py`; kept width `int((1 - ratio) * size)`, ascending order.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Int

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.pruning.importance import Importance

SELECTIONS = ("importance", "random", "first")


@dataclasses.dataclass(frozen=True)
class Kept:
    """The channels that stay, ascending: `hidden` [D'] and, per layer, `intermediate` [L, F']."""

    hidden: Int[np.ndarray, "D"]
    intermediate: Int[np.ndarray, "L F"]


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


def kept_widths(
    config: ModelConfig, hidden: float | int, intermediate: float | int, multiple_of: int
) -> tuple[int, int]:
    """`kept_width` of both kinds of channels.

    Raises:
      InputError: one of them does not exist, or nothing would be removed.
    """
    width = kept_width("prune.hidden", config.hidden_size, hidden, multiple_of)
    mlp_width = kept_width(
        "prune.intermediate", config.intermediate_size, intermediate, multiple_of
    )
    if (width, mlp_width) == (config.hidden_size, config.intermediate_size):
        raise InputError(
            f"prune.hidden and prune.intermediate: found {hidden:g} and {intermediate:g}, which "
            "keep every channel, expected one of them to remove some"
        )
    return width, mlp_width


def choose(
    config: ModelConfig,
    importance: Importance | None,
    hidden: int,
    intermediate: int,
    selection: str,
    seed: int,
) -> Kept:
    """Picks the channels of a model of this shape that stay.

    `importance` takes the highest scores (equal scores: the lower index), `first` the leading
    channels, `random` a uniform draw, anew in every layer; these two look at no importance.

    Raises:
      InputError: unknown selection, or no importance for it.
    """
    check_selection(selection)
    if selection == "importance" and importance is None:
        raise InputError("prune.selection: found 'importance', but none was measured")
    rng = np.random.default_rng(seed)

    def pick(scores: np.ndarray | None, size: int, width: int) -> np.ndarray:
        if selection == "random":
            scores = rng.random(size)
        elif selection == "first":
            scores = -np.arange(size)
        return np.sort(np.argsort(-scores, kind="stable")[:width]).astype(np.int32)

    scores = [None] * config.num_layers if importance is None else importance.intermediate
    layers = [pick(of_layer, config.intermediate_size, intermediate) for of_layer in scores]
    hidden_scores = None if importance is None else importance.hidden
    return Kept(pick(hidden_scores, config.hidden_size, hidden), np.stack(layers))


def check_selection(selection: str) -> None:
    """Refuses an unknown one.

    Raises:
      InputError: names it, and those that are known.
    """
    if selection not in SELECTIONS:
        raise InputError(f"prune.selection: found {selection!r}, expected one of {SELECTIONS}")


def check_kept(kept: Kept, config: ModelConfig, where: str) -> None:
    """Refuses index sets that are not distinct channels of this model.

    Raises:
      InputError: names `where` the indices come from and what does not fit.
    """
    layers = kept.intermediate.shape[0]
    if layers != config.num_layers:
        raise InputError(f"{where}: indices of {layers} layers, expected {config.num_layers}")
    sets = {"hidden": (kept.hidden, config.hidden_size)}
    for layer, indices in enumerate(kept.intermediate):
        sets[f"intermediate, layer {layer}"] = (indices, config.intermediate_size)
    for name, (indices, size) in sets.items():
        if len(indices) and not (indices.min() >= 0 and indices.max() < size):
            raise InputError(
                f"{where}: {name}: found index {indices.min()}..{indices.max()}, "
                f"expected 0..{size - 1}"
            )
        if not len(indices) or len(np.unique(indices)) != len(indices):
            raise InputError(f"{where}: {name}: indices empty or repeated")


def save_kept(path: Path, kept: Kept) -> None:
    """Writes the index sets as one `.npz`."""
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, hidden=kept.hidden, intermediate=kept.intermediate)
