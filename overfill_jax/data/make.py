"""The data stage: makes the procedural tasks and their tokenizer, for runs without own data."""

from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax.data import jsonl, procedural
from overfill_jax.errors import InputError


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes `data/{train,validation,test}.jsonl` and, if asked for, `tokenizer/`."""
    c = config.data
    counts = {"test": c.test_rows, "validation": c.validation_rows, "train": c.train_rows}
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"data.{split}_rows: found {count}, expected at least 1")
    folder = workdir / "data"
    procedural.write_dataset(folder, counts, config.seed)
    families = ", ".join(procedural.FAMILIES)
    logging.info("saved %s: %s rows of each of %s", folder, counts, families)
    if c.vocab_size:
        rows = (jsonl.parse(line) for _, line in jsonl.read_lines(folder / "train.jsonl"))
        procedural.train_tokenizer(rows, c.vocab_size, workdir / "tokenizer")
        logging.info("saved %s: %d pieces", workdir / "tokenizer", c.vocab_size)
