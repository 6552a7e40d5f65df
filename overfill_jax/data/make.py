"""The data stage: sources become a TFDS folder; without any, the procedural tasks are made."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax import files
from overfill_jax.data import conversations, jsonl, parallel, procedural
from overfill_jax.data.sources import mixed_lines, parse_sources, read_lines
from overfill_jax.data.tokenizer_training import train_tokenizer
from overfill_jax.errors import InputError


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes `data/`, and `tokenizer/` if its rows shall have one of their own."""
    c = config.data
    given = {"train": c.train, "validation": c.validation, "test": c.test}
    lines = {split: _lines_of(config, split, path) for split, path in given.items() if path}
    folder = workdir / "data"
    if lines:
        # TFDS takes half a second to import, and only its folders need it.
        from overfill_jax.data import tfds_rows

        tfds_rows.build(lines, folder)
        logging.info("saved %s: TFDS splits %s", folder, ", ".join(lines))
    else:
        _make_tasks(c, config.seed, folder)
    if c.vocab_size:
        source = folder if lines else folder / "train.jsonl"
        _train_tokenizer(config, source, workdir / "tokenizer")


def _lines_of(
    config: ml_collections.ConfigDict, split: str, source: str
) -> Callable[[], Iterator[tuple[int, bytes]]]:
    c = config.data
    if c.target:
        columns = (config.text.prompt_column, config.text.response_column)
        return functools.partial(
            parallel.instruction_lines, Path(source), c.target, c.wording, columns
        )
    return functools.partial(mixed_lines, parse_sources(source), split, config.seed)


def _make_tasks(c: ml_collections.ConfigDict, seed: int, folder: Path) -> None:
    counts = {"test": c.test_rows, "validation": c.validation_rows, "train": c.train_rows}
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"data.{split}_rows: found {count}, expected at least 1")
    if c.joined < 1:
        raise InputError(f"data.joined: found {c.joined}, expected at least 1")
    procedural.write_dataset(folder, counts, seed, c.joined)
    families = ", ".join(procedural.FAMILIES)
    logging.info("saved %s: %s rows of each of %s", folder, counts, families)


def _train_tokenizer(config: ml_collections.ConfigDict, source: Path, folder: Path) -> None:
    c = config.data
    columns = (config.text.prompt_column, config.text.response_column)
    texts = []
    for number, line in read_lines(source, "train"):
        try:
            row = jsonl.parse(line)
            texts += [conversations.text(row, column) for column in columns]
        except InputError as error:
            raise InputError(
                f"{source}, line {number}: {error}; expected the columns of section `text`, which "
                "the tokenizer is trained on"
            ) from error
    # In a cell of an experiment the folder may be a link to the one that all cells share.
    with files.replace_folder(folder) as temporary:
        train_tokenizer(texts, c.vocab_size, temporary)
    logging.info("saved %s: %d pieces", folder, c.vocab_size)
