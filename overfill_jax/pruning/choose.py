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
      amount: the share to remove, in [0, 1); or, as a whole number from 1 on, the width to keep.
        A float of exactly 1.0 is refused rather than guessed at.
      multiple_of: a width that follows from a share is rounded down to a multiple of it.

    Raises:
      InputError: ratio outside [0, 1), width of 0 or above `size`.
    """
    if isinstance(amount, int) or amount > 1:
        if amount != int(amount) or not 1 <= amount <= size:
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


def choose(
    importance: Importance, hidden: int, intermediate: int, selection: str, seed: int
) -> Kept:
    """Picks the channels that stay.

    `importance` takes the highest scores (equal scores: the lower index), `first` the leading
    channels, `random` a uniform draw, anew in every layer.

    Raises:
      InputError: unknown selection.
    """
    if selection not in SELECTIONS:
        raise InputError(f"prune.selection: found {selection!r}, expected one of {SELECTIONS}")
    rng = np.random.default_rng(seed)

    def pick(scores: np.ndarray, width: int) -> np.ndarray:
        if selection == "random":
            scores = rng.random(len(scores))
        elif selection == "first":
            scores = -np.arange(len(scores))
        return np.sort(np.argsort(-scores, kind="stable")[:width]).astype(np.int32)

    layers = [pick(scores, intermediate) for scores in importance.intermediate]
    return Kept(pick(importance.hidden, hidden), np.stack(layers))


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
