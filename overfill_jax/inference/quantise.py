"""The quantise stage: a model of the workdir with its weights in int8 or int4, for generation."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging
from jaxtyping import Array

from overfill_jax.model.quantised import (
    Quantised,
    Scheme,
    check_runs,
    check_scheme,
    quantise_model,
    restore,
    stored_bytes,
)
from overfill_jax.model.transformer import Model, unembedding
from overfill_jax.weights.folders import (
    OURS,
    check_dtype,
    check_target,
    fingerprint,
    load_model,
    load_origin,
    save_model,
)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """`quantise.model` into `quantise.target`; prints how far the weights have moved."""
    c = config.quantise
    scheme = Scheme(c.bits, c.group)
    source, target = workdir / c.model, workdir / c.target
    check_target(target, OURS, source)
    check_dtype("generate.dtype", config.generate.dtype)
    check_runs(scheme, config.generate.dtype, "quantise.bits")
    model = load_model(source)
    check_scheme(model.config, scheme)
    quantised = quantise_model(model, scheme)
    # What was trained behind the model goes on behind its integers.
    save_model(target, quantised, source, load_origin(source), fingerprint(model))
    for name, error in errors(model, quantised).items():
        logging.info("%s: %.2f %% off", name, 100 * error)
    before, after = (stored_bytes(one.params) for one in (model, quantised))
    logging.info("saved %s: %.1f MB of weights, of %.1f MB", target, after / 1e6, before / 1e6)


def errors(model: Model, quantised: Model) -> dict[str, float]:
    """Root mean square of what was rounded off every kernel, as a share of the kernel's own."""
    layers, rounded = model.params["layers"], quantised.params["layers"]
    pairs = {
        f"{part}/{name}": (layers[part][name]["kernel"], weights["kernel"])
        for part in ("attention", "mlp")
        for name, weights in rounded[part].items()
        if "norm" not in name
    }
    found = {name: _share_off(*pair, jax.vmap(restore)) for name, pair in pairs.items()}
    unembed = quantised.params["unembed"]["kernel"]
    return found | {"unembed": _share_off(unembedding(model), unembed, restore)}


def _share_off(original: Array, kernel: Quantised, whole: Callable[[Quantised], Array]) -> float:
    original = original.astype(jnp.float32)
    off = whole(kernel).astype(jnp.float32).reshape(original.shape) - original
    return float(jnp.sqrt(jnp.mean(off**2) / jnp.mean(original**2)))
