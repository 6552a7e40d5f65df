"""The data stage: sources become a TFDS folder; without any, the procedural tasks are made."""

import functools
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax.data import jsonl, procedural
from overfill_jax.data.sources import mixed_lines, parse_sources
from overfill_jax.errors import InputError


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes `data/`, and `tokenizer/` if the procedural tasks shall have one of their own."""
    c = config.data
    given = {"train": c.train, "validation": c.validation, "test": c.test}
    sources = {split: parse_sources(source) for split, source in given.items() if source}
    if sources:
        # TFDS takes half a second to import, and only its folders need it.
        from overfill_jax.data import tfds_rows

        lines = {
            split: functools.partial(mixed_lines, mixture, split, config.seed)
            for split, mixture in sources.items()
        }
        tfds_rows.build(lines, workdir / "data")
        logging.info("saved %s: TFDS splits %s", workdir / "data", ", ".join(sources))
    else:
        _make_tasks(c, config.seed, workdir)


def _make_tasks(c: ml_collections.ConfigDict, seed: int, workdir: Path) -> None:
    counts = {"test": c.test_rows, "validation": c.validation_rows, "train": c.train_rows}
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"data.{split}_rows: found {count}, expected at least 1")
    folder = workdir / "data"
    procedural.write_dataset(folder, counts, seed)
    families = ", ".join(procedural.FAMILIES)
    logging.info("saved %s: %s rows of each of %s", folder, counts, families)
    if c.vocab_size:
        rows = (jsonl.parse(line) for _, line in jsonl.read_lines(folder / "train.jsonl"))
        procedural.train_tokenizer(rows, c.vocab_size, workdir / "tokenizer")
        logging.info("saved %s: %d pieces", workdir / "tokenizer", c.vocab_size)
