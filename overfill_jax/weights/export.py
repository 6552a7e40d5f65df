"""The export stage: a model of the workdir becomes a Hugging Face folder."""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from overfill_jax.weights.folders import check_target, load_config, load_model
from overfill_jax.weights.hugging_face_config import EXPORTED
from overfill_jax.weights.hugging_face_export import check_width, export_model


def run(config: ConfigDict, workdir: Path) -> None:
    """Reads the folder `config.export.model`, writes the folder `config.export.target`.

    Raises:
      InputError: there is no such model, transformers would refuse its width, or the target holds
        something else or cannot be written.
    """
    c = config.export
    source, target = workdir / c.model, workdir / c.target
    # Before minutes of reading.
    config = load_config(source)
    check_target(target, EXPORTED, source)
    if not c.allow_illegal_widths:
        check_width(config)
    model = load_model(source)
    export_model(model, target, source, c.shard_bytes, c.allow_illegal_widths)
    logging.info("exported %s to %s", source, target)
