"""The convert stage: a Hugging Face folder becomes the full model of a workdir.

It stands here, above the room of the weights, because a model without the tokenizer that it was
trained with is of little use: both are checked before either is copied.
"""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from overfill_jax.data.chat import load_template
from overfill_jax.data.tokenizers import check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.weights.folders import (
    OURS,
    check_dtype,
    check_target,
    load_config,
    load_model,
    save_model,
)


def run(config: ConfigDict, workdir: Path) -> None:
    """Reads `config.convert.source`, writes `full/`.

    Raises:
      InputError: the source is no model that is understood, its tokenizer is broken or does not
        fit, or the workdir cannot be written.
    """
    if not config.convert.source:
        raise InputError("convert.source is empty, expected a Hugging Face folder")
    source, target = Path(config.convert.source), workdir / "full"
    # Before minutes of reading.
    check_dtype("convert.dtype", config.convert.dtype)
    check_tokenizer(source, load_config(source).vocab_size)
    check_target(target, OURS, source)
    model = load_model(source, config.convert.dtype)
    save_model(target, model, tokenizer_source=source)
    logging.info("converted %s to %s", source, target)


def check_tokenizer(source: Path, vocab_size: int) -> None:
    """Refuses a tokenizer that is broken or too large; where there is none, that is only said.

    Weights alone can be converted, pruned by given indices and exported.

    Raises:
      InputError: names the file, or both sizes.
    """
    if not any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        logging.warning("%s: no tokenizer, which all stages that read text will need", source)
        return
    check_vocabulary(load_tokenizer(source), vocab_size, str(source))
    load_template(source)
