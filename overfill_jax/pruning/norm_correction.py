"""Scales of the norms, made up for what a narrower stream does to their divisor.

A norm of the full model divides a token's stream by its rms over all D channels, that of the copy
by the rms over the channels that stay. These were chosen for what they carry, so theirs is as a
rule the larger one, and what every layer reads comes out too small.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from overfill_jax.errors import InputError
from overfill_jax.model.transformer import Model
from overfill_jax.pruning.choose import Kept
from overfill_jax.pruning.importance import Importance

# rms over the kept channels / rms over all, of every layer that stays and at the end.
Factors = dict[str, Float[np.ndarray, "..."]]


def measured_energy(importance: Importance | None) -> Float[np.ndarray, "_ D"]:
    """What the norms of the full model read, as calibration saw it.

    Raises:
      InputError: it did not look.
    """
    if importance is None or importance.energy is None:
        found = "no importance" if importance is None else "importance without the norms' energy"
        raise InputError(
            f"prune.norm_correction: found {found}, expected that of a calibration of this "
            "version; run calibrate again"
        )
    return importance.energy


def norm_factors(energy: Float[np.ndarray, "_ D"], kept: Kept) -> Factors:
    """By how much larger than the full model's each norm's divisor is once the model is cut.

    The root of the mean over tokens of the ratio's square, which is that of every token where all
    have the same share of their energy in the channels that stay.

    Args:
      energy: as in `Importance`.
      kept: what stays.

    Returns:
      `attention_norm` and `mlp_norm` [L'], `final_norm` [].
    """
    wide = energy.astype(np.float64)
    factors = np.sqrt(wide[:, np.sort(kept.hidden)].mean(axis=1) / wide.mean(axis=1))
    layers = slice(None) if kept.layers is None else kept.layers
    return {
        "attention_norm": factors[:-1:2][layers],
        "mlp_norm": factors[1:-1:2][layers],
        "final_norm": factors[-1],
    }


def correct_norms(model: Model, factors: Factors) -> Model:
    """The cut model with its norms' scales multiplied; those of query and key heads stay."""

    def scaled(norm: dict[str, Array], name: str) -> dict[str, Array]:
        scale = norm["scale"]
        wide = scale.astype(jnp.float32) * jnp.asarray(factors[name], jnp.float32)[..., None]
        return {"scale": wide.astype(scale.dtype)}

    layers = dict(model.params["layers"])
    for name in ("attention_norm", "mlp_norm"):
        layers[name] = scaled(layers[name], name)
    final = scaled(model.params["final_norm"], "final_norm")
    return dataclasses.replace(model, params=model.params | {"layers": layers, "final_norm": final})
