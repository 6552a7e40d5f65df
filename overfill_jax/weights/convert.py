"""The convert stage: a Hugging Face folder becomes the full model of a workdir."""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from overfill_jax.errors import InputError
from overfill_jax.weights.folders import load_model, save_model


def run(config: ConfigDict, workdir: Path) -> None:
    """Reads `config.convert.source`, writes `full/`.

    Raises:
      InputError: the source is no model that is understood, or the workdir cannot be written.
    """
    if not config.convert.source:
        raise InputError("convert.source is empty, expected a Hugging Face folder")
    source = Path(config.convert.source)
    model = load_model(source, config.convert.dtype)
    save_model(workdir / "full", model, tokenizer_source=source)
    logging.info("converted %s to %s", source, workdir / "full")
