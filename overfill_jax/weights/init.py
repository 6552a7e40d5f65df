"""The init stage: a full model with random weights, for training from scratch."""

from pathlib import Path

import jax
import ml_collections
from absl import logging

from overfill_jax.errors import InputError
from overfill_jax.files import read_object
from overfill_jax.model.size import parameters
from overfill_jax.model.transformer import Model, init
from overfill_jax.weights.folders import check_dtype, save_model
from overfill_jax.weights.hugging_face_config import from_hugging_face


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Draws weights in the shape of `config.init.config` and saves them as `full/`."""
    c = config.init
    if not c.tokenizer:
        raise InputError("init.tokenizer: found '', expected a folder or file to go along")
    check_dtype("init.dtype", c.dtype)
    source = read_object(Path(c.config))
    model = init(from_hugging_face(source, c.config), jax.random.key(config.seed))
    params = jax.tree.map(lambda x: x.astype(c.dtype), model.params)
    save_model(workdir / "full", Model(model.config, params), Path(c.tokenizer))
    logging.info("saved %s: %d random parameters", workdir / "full", parameters(model.config))
