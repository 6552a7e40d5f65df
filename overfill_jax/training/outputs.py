"""What a training run leaves: the trained models, each with what it came from."""

import dataclasses
from pathlib import Path

import jax
from absl import logging

from overfill_jax.model.low_rank import merged
from overfill_jax.model.transformer import Model, Params
from overfill_jax.training.inputs import FOLDERS, cast_like
from overfill_jax.training.methods import Method
from overfill_jax.training.placement import Placement
from overfill_jax.training.step import Setup
from overfill_jax.weights.folders import fingerprint, load_fingerprint, load_origin, save_model
from overfill_jax.weights.origin import Origin


def with_adapters(
    setup: Setup, placement: Placement, frozen: dict[str, Params], adapters: dict[str, Params]
) -> dict[str, Params]:
    """Plain weights of the trained models, on their places: nobody else knows of adapters."""
    models = {}
    for name, pairs in adapters.items():
        merge = jax.jit(merged, static_argnums=2, out_shardings=placement.frozen[name])
        models[name] = merge(frozen[name], pairs, setup.low_rank.scale)
    return models


def save_outputs(
    method: Method,
    models: dict[str, Model],
    best: dict[str, Params],
    before: dict[str, str],
    first_token: str,
    workdir: Path,
) -> None:
    """Writes the trained models in the dtype that their weights came in, with what they are of."""
    trained = {
        name: dataclasses.replace(models[name], params=cast_like(best[name], models[name].params))
        for name in sorted(method.outputs)
    }
    if method.name == "scratch":  # only the shape is the pruned model's
        before = {**before, "decoder": load_fingerprint(workdir / FOLDERS["decoder"])}
    for name, model in trained.items():
        if name == "full":
            origin = Origin(before["full"], first_token=None)
        elif method.reader == "full":
            full = fingerprint(trained["full"]) if "full" in trained else before["full"]
            origin = Origin(full, first_token, before["decoder"])
        else:
            cut = load_origin(workdir / FOLDERS["decoder"])
            origin = Origin(cut and cut.full, None, before["decoder"])
        folder = workdir / method.outputs[name]
        save_model(folder, model, workdir / FOLDERS[name], origin)
        logging.info("saved %s", folder)
