"""Which channels, heads and layers stay: index sets, by importance or by rule."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.pruning.importance import Importance
from overfill_jax.pruning.sizes import SELECTIONS, Sizes, given_layers, sizes_of
from overfill_jax.weights.official_indices import load_indices

ATTENTION = ("layers", "kv_heads", "heads")


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stays, by index in the full model, ascending; of attention, None where all of it does.

    Attributes:
      hidden: [D'].
      intermediate: [L', F'], of each layer that stays.
      layers: [L'].
      kv_heads: [L', K'].
      heads: [L', N'], the same number of each kv head that stays.
    """

    hidden: Int[np.ndarray, "D"]
    intermediate: Int[np.ndarray, "L F"]
    layers: Int[np.ndarray, "_"] | None = None
    kv_heads: Int[np.ndarray, "_ K"] | None = None
    heads: Int[np.ndarray, "_ N"] | None = None


def choose(
    config: ModelConfig,
    importance: Importance | None,
    sizes: Sizes,
    selection: str,
    layers: str | Sequence[int],
    seed: int,
) -> Kept:
    """Picks what stays of a model of this shape.

    `importance` takes the highest scores (equal scores: the lower index), `first` the leading
    ones, `random` a uniform draw, anew in every layer; these two look at no importance. A kv head
    counts as much as its query heads together.

    Args:
      config: of the full model.
      importance: of it; None where nothing is picked by it.
      sizes: how much stays.
      selection: of channels and heads.
      layers: of layers: the same, `last`, `firstlast` (from both ends), or the layers themselves.
      seed: of the draws.

    Raises:
      InputError: unknown selection, or no importance for it.
    """
    check_selection(selection)
    whole, rng = sizes_of(config), np.random.default_rng(seed)
    count = config.num_layers

    def scores(name: str, shape: tuple[int, ...], by: str, removes: bool) -> np.ndarray:
        if by == "random":
            return rng.random(shape)
        if by == "importance" and removes:
            return _measured(importance, name).reshape(shape)
        index = np.arange(shape[-1])
        rules = {"last": index, "firstlast": -np.minimum(index, index[::-1])}
        return np.broadcast_to(rules.get(by, -index), shape)

    def pick(name: str, of: tuple[int, ...], kept: int) -> np.ndarray:
        return _highest(scores(name, of, selection, kept < of[-1]), kept)

    intermediate = pick("intermediate", (count, whole.intermediate), sizes.intermediate)
    hidden = pick("hidden", (whole.hidden,), sizes.hidden)
    removes = (sizes.kv_heads, sizes.group) != (whole.kv_heads, whole.group)
    by_head = scores("heads", (count, whole.kv_heads, whole.group), selection, removes)
    kv_heads, heads = _best_heads(by_head, sizes)
    chosen = given_layers(layers, count)
    if chosen is None:
        of_layers = scores("layers", (count,), layers, sizes.layers < count)
        chosen = _highest(of_layers, sizes.layers)
    return Kept(
        hidden,
        intermediate[chosen],
        np.array(chosen, np.int32) if sizes.layers < count else None,
        kv_heads[chosen] if sizes.kv_heads < whole.kv_heads else None,
        heads[chosen] if removes else None,
    )


def by_importance(config: ModelConfig, sizes: Sizes, selection: str, layers: object) -> bool:
    """Whether `choose` would ask for importance."""
    whole = sizes_of(config)
    of_layers = layers == "importance" and sizes.layers < whole.layers
    others = dataclasses.replace(sizes, layers=whole.layers) != whole
    return of_layers or (selection == "importance" and others)


def check_selection(selection: str) -> None:
    """Refuses an unknown one.

    Raises:
      InputError: names it, and those that are known.
    """
    if selection not in SELECTIONS:
        raise InputError(f"prune.selection: found {selection!r}, expected one of {SELECTIONS}")


def check_kept(kept: Kept, config: ModelConfig, where: str) -> None:
    """Refuses index sets that are not distinct parts of this model.

    Raises:
      InputError: names `where` the indices come from and what does not fit.
    """
    count = config.num_layers if kept.layers is None else len(kept.layers)
    sets = {"hidden": (kept.hidden, config.hidden_size)}
    if kept.layers is not None:
        sets["layers"] = (kept.layers, config.num_layers)
    by_layer = {
        "intermediate": (kept.intermediate, config.intermediate_size),
        "kv_heads": (kept.kv_heads, config.num_kv_heads),
        "heads": (kept.heads, config.num_heads),
    }
    for name, (indices, size) in by_layer.items():
        if indices is not None:
            if len(indices) != count:
                raise InputError(f"{where}: indices of {len(indices)} layers, expected {count}")
            sets |= {f"{name}, layer {n}": (row, size) for n, row in enumerate(indices)}
    for name, (indices, size) in sets.items():
        if len(indices) and not (indices.min() >= 0 and indices.max() < size):
            raise InputError(
                f"{where}: {name}: found index {indices.min()}..{indices.max()}, "
                f"expected 0..{size - 1}"
            )
        if not len(indices) or len(np.unique(indices)) != len(indices):
            raise InputError(f"{where}: {name}: indices empty or repeated")
    _check_groups(kept, config, count, where)


def save_kept(path: Path, kept: Kept) -> None:
    """Writes the index sets as one `.npz`; what all stays of is left out."""
    arrays = {f.name: getattr(kept, f.name) for f in dataclasses.fields(Kept)}
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


def load_kept(path: Path, config: ModelConfig) -> Kept:
    """Reads what `save_kept` wrote, or a released `.pkl`; every set is made ascending.

    Raises:
      InputError: the file is missing, is no index file, or does not fit a model of this shape.
    """
    hidden, intermediate = load_indices(path)
    attention = {}
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                attention = {name: arrays[name] for name in ATTENTION if name in arrays}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not an index file ({error})") from error
    for name, array in attention.items():
        axes = 1 if name == "layers" else 2
        whole = array.ndim == axes and array.dtype.kind in "iu"
        # Compared, not subtracted: differences of unsigned numbers are never below 0.
        if not (whole and np.all(array[..., 1:] > array[..., :-1])):
            raise InputError(
                f"{path}: {name} has shape {array.shape} and dtype {array.dtype}, expected "
                f"ascending integers with {axes} axes"
            )
    kept = Kept(hidden, intermediate, **attention)
    check_kept(kept, config, str(path))
    ordered = {"hidden": np.sort(hidden), "intermediate": np.sort(intermediate, axis=1)}
    return dataclasses.replace(kept, **ordered)


def _highest(
    scores: Shaped[np.ndarray, "*axes size"], count: int
) -> Int[np.ndarray, "*axes count"]:
    """Of every row, the indices of the highest scores, ascending."""
    return np.sort(np.argsort(-scores, axis=-1, kind="stable")[..., :count]).astype(np.int32)


def _best_heads(scores: np.ndarray, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Of every layer the kv heads that are best together, and of these the best query heads."""
    layers, _, group = scores.shape
    kv_heads = _highest(scores.sum(axis=2), sizes.kv_heads)
    within = _highest(np.take_along_axis(scores, kv_heads[..., None], axis=1), sizes.group)
    return kv_heads, (kv_heads[..., None] * group + within).reshape(layers, -1)


def _measured(importance: Importance | None, name: str) -> np.ndarray:
    if importance is None:
        raise InputError("prune.selection: found 'importance', but none was measured")
    found = getattr(importance, name)
    if found is None:
        raise InputError(
            f"importance: found none of {name}, for it was measured by an earlier version; "
            "expected that of another calibration"
        )
    return found


def _check_groups(kept: Kept, config: ModelConfig, count: int, where: str) -> None:
    """Refuses query heads that are not as many of every kv head that stays."""
    kv_heads = kept.kv_heads
    if kv_heads is None:
        kv_heads = np.tile(np.arange(config.num_kv_heads), (count, 1))
    if kept.heads is None:
        even = kept.kv_heads is None
    else:
        group, rest = divmod(kept.heads.shape[1], kv_heads.shape[1])
        owners = np.repeat(kv_heads, max(group, 1), axis=1)
        even = not rest and np.array_equal(kept.heads // config.group_size, owners)
    if not even:
        raise InputError(
            f"{where}: heads: expected as many query heads of every kv head that stays"
        )
