"""Importance of channels, heads and layers: measured in one pass, read for any new shape."""

import dataclasses
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model, observed_statistics
from overfill_jax.pruning.statistics import STATISTICS, observer, weight_norms

SAMPLE_NORMS = ("l1", "l2")
SCORES = ("hidden", "intermediate", "heads", "layers", "energy")


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much each channel, query head and layer matters.

    >>> importance.hidden.shape, importance.intermediate.shape
    ((128,), (4, 320))
    >>> importance.provenance["statistic"], importance.provenance["samples"]
    ('signed_mean', 2)

    Attributes:
      hidden: [D], one score per channel of the residual stream, for the whole model.
      intermediate: [L, F], one score per MLP channel of each layer.
      provenance: what it was computed from (model fingerprint, text, statistic, ...).
      heads: [L, N], one score per query head of each layer. A kv group's is the sum of its heads'.
      layers: [L], how much each layer turns the stream (ShortGPT's block influence,
        arXiv 2403.03853).
      energy: [2 L + 1, D], no score: of the input of every norm from the first to the final one,
        each channel's mean square over the counted tokens, a token's channels together scaled to
        a mean of 1. All three None in what an earlier version measured.
    """

    hidden: Float[np.ndarray, "D"]
    intermediate: Float[np.ndarray, "L F"]
    provenance: dict[str, str | int]
    heads: Float[np.ndarray, "L N"] | None = None
    layers: Float[np.ndarray, "L"] | None = None
    energy: Float[np.ndarray, "_ D"] | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Scores and energy by name, as far as there are any."""
        scores = {name: getattr(self, name) for name in SCORES}
        return {name: array for name, array in scores.items() if array is not None}


@dataclasses.dataclass(frozen=True)
class CalibrationBatch:
    """Right-padded samples: tokens, which of them are real, and which of those count."""

    tokens: Int[np.ndarray, "B T"]
    valid: Bool[np.ndarray, "B T"]
    counted: Bool[np.ndarray, "B T"]


def measure_importance(
    model: Model,
    batches: Iterable[CalibrationBatch],
    statistic: str,
    sample_norm: str,
) -> Importance:
    """One streaming pass; memory does not grow with the number of samples.

    Of every sample, each channel's statistic is taken over the counted tokens. Hidden channels
    add its absolute value over all layers and both norms, a query head over the channels of its
    output; MLP channels stand alone, as does the turn of the stream in a layer. The norm over
    samples closes. The energy is a mean over all tokens. Sums are kept in float64, so batching does
    not matter.

    Raises:
      InputError: unknown statistic or norm, no sample at all, or a score that is not finite.
    """
    for name, value, known in (
        ("statistic", statistic, STATISTICS),
        ("sample_norm", sample_norm, SAMPLE_NORMS),
    ):
        if value not in known:
            raise InputError(f"calibrate.{name}: found {value!r}, expected one of {known}")
    power = 1 if sample_norm == "l1" else 2
    totals = {name: np.zeros(shape) for name, shape in score_shapes(model.config).items()}
    samples = tokens = 0
    for batch in batches:
        scores = jax.device_get(
            _sample_scores(model, batch.tokens, batch.valid, batch.counted, statistic)
        )
        for name, of_samples in scores.items():
            of_samples = of_samples.astype(np.float64)
            totals[name] += np.sum(of_samples if name == "energy" else of_samples**power, axis=0)
        samples += int(np.sum(np.any(batch.counted, axis=1)))
        tokens += int(np.sum(batch.counted))
    if not samples:
        raise InputError("calibrate: no sample with a token that counts")
    provenance = {"statistic": statistic, "sample_norm": sample_norm}
    provenance |= {"samples": samples, "tokens": tokens}
    energy = totals.pop("energy") / tokens
    totals = {name: sums ** (1 / power) for name, sums in totals.items()} | {"energy": energy}
    scores = {name: values.astype(np.float32) for name, values in totals.items()}
    if not all(np.isfinite(array).all() for array in scores.values()):
        raise InputError(
            f"calibrate: the model's activations overflow in {model.config.dtype}, expected finite "
            "ones"
        )
    return Importance(**scores, provenance=provenance)


def score_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every array of scores, by its name."""
    c = config
    return {
        "hidden": (c.hidden_size,),
        "intermediate": (c.num_layers, c.intermediate_size),
        "heads": (c.num_layers, c.num_heads),
        "layers": (c.num_layers,),
        "energy": (2 * c.num_layers + 1, c.hidden_size),
    }


@jax.jit(static_argnames="statistic")
def _sample_scores(
    model: Model, tokens: Array, valid: Array, counted: Array, statistic: str
) -> dict[str, Float[Array, "B ..."]]:
    """Scores of every sample, shaped as `score_shapes` behind its axis."""
    observe = observer(statistic, counted)
    seen = observed_statistics(model, tokens, valid.astype(jnp.int32), observe)
    if statistic == "weighted":
        norms = weight_norms(model.params)
        seen |= {name: seen[name] * norm[:, None] for name, norm in norms.items()}
    size = {name: jnp.abs(value) for name, value in seen.items()}
    tokens = jnp.sum(counted, axis=1)
    by_head = size["mixed"].reshape(*size["mixed"].shape[:2], model.config.num_heads, -1)
    return {
        "hidden": jnp.sum(size["attention_input"] + size["mlp_input"], axis=0),
        "intermediate": jnp.swapaxes(size["inner"], 0, 1),
        "heads": jnp.swapaxes(jnp.sum(by_head, axis=-1), 0, 1),
        "layers": size["turn"][..., 0].T,
        "energy": jnp.swapaxes(size["stream"] * tokens[:, None], 0, 1),  # of all tokens together
    }


def save_importance(path: Path, importance: Importance) -> None:
    """Writes one `.npz` with the scores and the provenance."""
    provenance = np.array(json.dumps(importance.provenance))
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **importance.arrays(), provenance=provenance)


def load_importance(path: Path, config: ModelConfig, fingerprint: str) -> Importance:
    """Reads what `save_importance` wrote, for the model that it was measured on.

    Raises:
      InputError: not such a file, of another model, or with a score that is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = ("hidden", "intermediate", *(name for name in SCORES[2:] if name in arrays))
            scores = {name: arrays[name] for name in names}
            provenance = json.loads(str(arrays["provenance"]))
            model = provenance["model"]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the calibrate stage writes it") from error
    # A lone array is no context, and what it holds of JSON may be of any kind.
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an importance file ({error})") from error
    shapes = score_shapes(config)
    found, expected = ([x.shape for x in scores.values()], [shapes[name] for name in scores])
    if found != expected:
        raise InputError(
            f"{path}: importance of another model: shapes {_told(found)}, expected "
            f"{_told(expected)}"
        )
    if model != fingerprint:
        raise InputError(
            f"{path}: importance of another model: fingerprint {model}, expected {fingerprint}"
        )
    for name, array in scores.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{path}: {name} holds NaN or Inf, expected finite scores")
    return Importance(**scores, provenance=provenance)


def _told(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
