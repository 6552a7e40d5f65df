"""The calibrate stage: full/ and text into importance.npz and the samples it was measured on."""

import dataclasses
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax.data.chat import load_template
from overfill_jax.data.instructions import load_examples, read_options
from overfill_jax.data.tokenizers import check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.pruning.importance import measure_importance, save_importance
from overfill_jax.pruning.samples import (
    POSITIONS,
    ROWS,
    Samples,
    from_examples,
    join,
    read_text,
    save_samples,
    select,
)
from overfill_jax.weights.folders import check_dtype, fingerprint, load_config, load_model


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Measures channel importance by one pass over the text of `config.calibrate.source`."""
    c = config.calibrate
    check_dtype("calibrate.dtype", c.dtype)
    samples = gather(config, workdir)
    model = load_model(workdir / "full")
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=c.dtype))
    batches = samples.batches(c.batch_size)
    importance = measure_importance(model, batches, c.statistic, c.sample_norm)
    provenance = importance.provenance | {
        "model": fingerprint(model),
        "source": c.source,
        "positions": c.positions,
        "rows": c.rows,
        "length": c.length,
        "dtype": c.dtype,
    }
    save_samples(workdir / "calibration.npz", samples)
    importance = dataclasses.replace(importance, provenance=provenance)
    save_importance(workdir / "importance.npz", importance)
    logging.info("saved %s (%s)", workdir / "importance.npz", provenance)


def gather(config: ml_collections.ConfigDict, workdir: Path) -> Samples:
    """Tokenises the source and takes the samples that the config asks for.

    Raises:
      InputError: nothing usable, or a setting that does not fit the source.
    """
    c = config.calibrate
    for key, known in (("positions", POSITIONS), ("rows", ROWS)):
        if c[key] not in known:
            raise InputError(f"calibrate.{key}: found {c[key]!r}, expected one of {known}")
    if c.rows == "packed" and c.positions == "answer":
        raise InputError("calibrate.positions: packed rows are cut anywhere, expected 'all'")
    for key in ("samples", "length", "batch_size"):
        if c[key] < 1:
            raise InputError(f"calibrate.{key}: found {c[key]}, expected at least 1")
    full = workdir / "full"
    tokenizer = load_tokenizer(full)
    check_vocabulary(tokenizer, load_config(full).vocab_size, str(full))
    source = Path(c.source)
    if source.suffix == ".txt":
        if c.positions == "answer":
            raise InputError(f"calibrate.positions: {source} is plain text and has no answers")
        rows = read_text(source, tokenizer)
        starts = [0] * len(rows)
    else:
        template = load_template(full)
        options = read_options(config.text)
        examples, _ = load_examples(source, c.split, tokenizer, template, options)
        rows, starts = from_examples(examples, c.positions)
    if c.rows == "packed":
        return join(rows, c.samples, c.length)
    return select(rows, starts, c.samples, c.length, longest=c.rows == "longest")
