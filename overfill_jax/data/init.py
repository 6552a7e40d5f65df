"""The init stage: a full model with random weights, for training from scratch.

It stands above the room of the weights for the reason that `convert.py` does.
"""

from pathlib import Path

import jax
import ml_collections
from absl import logging

from overfill_jax.data.tokenizers import check_stop, check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.files import read_object
from overfill_jax.model.size import parameters
from overfill_jax.model.transformer import Model, init
from overfill_jax.weights.folders import check_dtype, save_model
from overfill_jax.weights.hugging_face_config import from_hugging_face


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Draws weights in the shape of `config.init.config` and saves them as `full/`.

    Raises:
      InputError: a setting names nothing, the shape is not understood, or the tokenizer is broken,
        does not fit it or names no token that ends an answer.
    """
    c = config.init
    if not c.config:
        raise InputError("init.config: found nothing, expected a config.json")
    if not c.tokenizer:
        raise InputError("init.tokenizer: found nothing, expected a folder or file to go along")
    check_dtype("init.dtype", c.dtype)
    shape = from_hugging_face(read_object(Path(c.config)), c.config)
    tokenizer = load_tokenizer(Path(c.tokenizer))
    check_vocabulary(tokenizer, shape.vocab_size, c.tokenizer)
    check_stop(tokenizer, c.tokenizer)
    model = init(shape, jax.random.key(config.seed))
    params = jax.tree.map(lambda x: x.astype(c.dtype), model.params)
    save_model(workdir / "full", Model(model.config, params), Path(c.tokenizer))
    logging.info("saved %s: %d random parameters", workdir / "full", parameters(model.config))
