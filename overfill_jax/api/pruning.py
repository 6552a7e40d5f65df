"""From a full model to its decoder: calibration and the cut, in memory."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from overfill_jax.api.language_model import LanguageModel, check_not_quantised
from overfill_jax.errors import InputError
from overfill_jax.pruning.choose import choose
from overfill_jax.pruning.cut import cut
from overfill_jax.pruning.importance import Importance, measure_importance
from overfill_jax.pruning.norm_correction import correct_norms, measured_energy, norm_factors
from overfill_jax.pruning.sizes import check_removes, kept_sizes
from overfill_jax.pruning.stream import text_batches, token_batches
from overfill_jax.weights.folders import check_dtype, fingerprint
from overfill_jax.weights.origin import Origin

Tokens = Int[Array | np.ndarray, "B T"]


def calibrate(
    full: LanguageModel,
    text: Iterable[str] | Iterable[Tokens] | Tokens,
    statistic: str = "signed_mean",
    sample_norm: str = "l2",
    length: int = 512,
    batch_size: int = 8,
    dtype: str = "float32",
) -> Importance:
    """Measures how much each channel matters, in one pass.

    >>> importance = overfill_jax.calibrate(full, ["Ann has 3.", "Bob has 4 and wins 5."])
    >>> importance.hidden.shape, importance.intermediate.shape
    ((128,), (4, 320))

    Args:
      full: the model that is to be pruned.
      text: one sample a string, read as they are needed; or tokens without padding, as one
        [B, T] array or batches of them.
      statistic: over a sample: signed_mean (the paper's), abs_mean, rms or weighted.
      sample_norm: over the samples: l2 (the paper's) or l1.
      length: tokens at which samples given as text are cut.
      batch_size: samples at a time, for text.
      dtype: of the computation, whatever the weights are kept in.

    Raises:
      InputError: unknown statistic, norm or dtype, nothing to measure, tokens that the model lacks.
    """
    check_dtype("calibrate: dtype", dtype)
    check_not_quantised("calibrate", full)
    for name, value in (("length", length), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"calibrate: {name} is {value}, expected at least 1")
    if isinstance(text, str):
        raise InputError(
            "calibrate: text is one string, expected a list of strings or an open file"
        )
    samples = iter([text] if isinstance(text, (np.ndarray, jax.Array)) else text)
    first = list(itertools.islice(samples, 1))
    samples = itertools.chain(first, samples)
    if first and isinstance(first[0], str):
        batches = text_batches(samples, full.tokenizer, length, batch_size)
    else:
        batches = token_batches(samples, full.config.vocab_size)
    config = dataclasses.replace(full.config, dtype=dtype)
    model = dataclasses.replace(full.model, config=config)
    importance = measure_importance(model, batches, statistic, sample_norm)
    provenance = importance.provenance | {"model": full.fingerprint, "dtype": dtype}
    return dataclasses.replace(importance, provenance=provenance)


def prune(
    full: LanguageModel,
    importance: Importance | None,
    hidden: float | int = 0.45,
    intermediate: float | int = 0.45,
    multiple_of: int = 1,
    selection: str = "importance",
    seed: int = 0,
    heads: float | int = 0.0,
    kv_heads: float | int = 0.0,
    depth: float | int = 0.0,
    layers: str | Sequence[int] = "importance",
    norm_correction: bool = False,
) -> LanguageModel:
    """Cuts the full model down to its decoder, which still has to be trained.

    >>> decoder = overfill_jax.prune(full, importance, hidden=64, intermediate=0.5)
    >>> decoder.config.hidden_size, decoder.config.intermediate_size
    (64, 160)
    >>> shallow = overfill_jax.prune(full, importance, heads=0.5, depth=0.25, layers="firstlast")
    >>> shallow.config.group_size, shallow.config.handoff.layers
    (1, (0, 1, 3))

    Args:
      full: the model that `importance` was measured on.
      importance: of `calibrate`; None for a selection that looks at none.
      hidden, intermediate: shares to remove, in [0, 1), or whole widths to keep.
      multiple_of: widths that follow from a share are rounded down to it.
      selection: of channels and heads: importance, random or first.
      seed: of random selections.
      heads, kv_heads, depth: shares to remove, or whole numbers to keep, of the query heads of each
        kv head, of the kv heads and of the layers.
      layers: importance, random, first, last, firstlast, or the layers to keep.
      norm_correction: scales the norms by what the cut does to their divisors.

    Raises:
      InputError: a size or layer that does not exist, or importance of another model, or none that
        the norms could be corrected by.
    """
    check_not_quantised("prune", full)
    if importance is not None and importance.provenance.get("model") != full.fingerprint:
        raise InputError("prune: the importance was measured on another model")
    sizes = kept_sizes(
        full.config, hidden, intermediate, multiple_of, heads, kv_heads, depth, layers
    )
    check_removes(full.config, sizes)
    energy = measured_energy(importance) if norm_correction else None
    kept = choose(full.config, importance, sizes, selection, layers, seed)
    model = cut(full.model, kept)
    if energy is not None:
        model = correct_norms(model, norm_factors(energy, kept))
    origin = Origin(full.fingerprint, first_token=None)
    return dataclasses.replace(full, model=model, fingerprint=fingerprint(model), origin=origin)
