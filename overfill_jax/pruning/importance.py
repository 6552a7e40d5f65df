"""Channel importance: computed in one pass, kept with its provenance, read for any new width."""

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


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much each channel matters.

    >>> importance.hidden.shape, importance.intermediate.shape
    ((128,), (4, 320))
    >>> importance.provenance["statistic"], importance.provenance["samples"]
    ('signed_mean', 2)

    Attributes:
      hidden: [D], one score per channel of the residual stream, for the whole model.
      intermediate: [L, F], one score per MLP channel of each layer.
      provenance: what it was computed from (model fingerprint, text, statistic, ...).
    """

    hidden: Float[np.ndarray, "D"]
    intermediate: Float[np.ndarray, "L F"]
    provenance: dict[str, str | int]


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
    add its absolute value over all layers and both norms, MLP channels keep their layer apart;
    the norm over samples closes. Sums are kept in float64, so batching does not matter.

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
    config = model.config
    hidden = np.zeros(config.hidden_size)
    intermediate = np.zeros((config.num_layers, config.intermediate_size))
    samples = tokens = 0
    for batch in batches:
        by_hidden, by_inner = jax.device_get(
            _sample_scores(model, batch.tokens, batch.valid, batch.counted, statistic)
        )
        hidden += np.sum(by_hidden.astype(np.float64) ** power, axis=0)
        intermediate += np.sum(by_inner.astype(np.float64) ** power, axis=1)
        samples += int(np.sum(np.any(batch.counted, axis=1)))
        tokens += int(np.sum(batch.counted))
    if not samples:
        raise InputError("calibrate: no sample with a token that counts")
    provenance = {"statistic": statistic, "sample_norm": sample_norm}
    provenance |= {"samples": samples, "tokens": tokens}
    scores = [(sums ** (1 / power)).astype(np.float32) for sums in (hidden, intermediate)]
    if not all(np.isfinite(array).all() for array in scores):
        raise InputError(
            f"calibrate: the model's activations overflow in {config.dtype}, expected finite ones"
        )
    return Importance(*scores, provenance)


@jax.jit(static_argnames="statistic")
def _sample_scores(
    model: Model, tokens: Array, valid: Array, counted: Array, statistic: str
) -> tuple[Float[Array, "B D"], Float[Array, "L B F"]]:
    observe = observer(statistic, counted)
    seen = observed_statistics(model, tokens, valid.astype(jnp.int32), observe)
    if statistic == "weighted":
        norms = weight_norms(model.params)
        seen = {name: value * norms[name][:, None] for name, value in seen.items()}
    size = {name: jnp.abs(value) for name, value in seen.items()}
    hidden = jnp.sum(size["attention_input"] + size["mlp_input"], axis=0)
    return hidden, size["inner"]


def save_importance(path: Path, importance: Importance) -> None:
    """Writes one `.npz` with both arrays and the provenance."""
    provenance = json.dumps(importance.provenance)
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            hidden=importance.hidden,
            intermediate=importance.intermediate,
            provenance=np.array(provenance),
        )


def load_importance(path: Path, config: ModelConfig, fingerprint: str) -> Importance:
    """Reads what `save_importance` wrote, for the model that it was measured on.

    Raises:
      InputError: not such a file, of another model, or with a score that is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            hidden, intermediate = arrays["hidden"], arrays["intermediate"]
            provenance = json.loads(str(arrays["provenance"]))
            model = provenance["model"]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the calibrate stage writes it") from error
    # A lone array is no context, and what it holds of JSON may be of any kind.
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an importance file ({error})") from error
    found = hidden.shape, intermediate.shape
    expected = (config.hidden_size,), (config.num_layers, config.intermediate_size)
    if found != expected:
        raise InputError(
            f"{path}: importance of another model: shapes {found[0]} and {found[1]}, "
            f"expected {expected[0]} and {expected[1]}"
        )
    if model != fingerprint:
        raise InputError(
            f"{path}: importance of another model: fingerprint {model}, expected {fingerprint}"
        )
    for name, scores in (("hidden", hidden), ("intermediate", intermediate)):
        if scores.dtype.kind != "f" or not np.isfinite(scores).all():
            raise InputError(f"{path}: {name} holds NaN or Inf, expected finite scores")
    return Importance(hidden, intermediate, provenance)
