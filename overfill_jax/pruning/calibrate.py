"""The calibrate stage: full/ and text into importance.npz and the samples it was measured on."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import logging

from overfill_jax import files
from overfill_jax.data.chat import load_template
from overfill_jax.data.instructions import (
    Example,
    Rejected,
    read_examples,
    read_options,
    report,
)
from overfill_jax.data.tokenizers import check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.pruning.importance import measure_importance, save_importance
from overfill_jax.pruning.samples import (
    POSITIONS,
    ROWS,
    Row,
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
    files.check_writable(workdir / "calibration.npz", workdir / "importance.npz")
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
        "families": ", ".join(c.families) or "all",
        "length": c.length,
        "dtype": c.dtype,
    }
    save_samples(workdir / "calibration.npz", samples)
    importance = dataclasses.replace(importance, provenance=provenance)
    save_importance(workdir / "importance.npz", importance)
    told = ", ".join(f"{name} {value}" for name, value in provenance.items())
    logging.info("saved %s (%s)", workdir / "importance.npz", told)


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
    if not c.source:
        raise InputError("calibrate.source: found nothing, expected a .txt, JSONL or TFDS source")
    full = workdir / "full"
    tokenizer = load_tokenizer(full)
    check_vocabulary(tokenizer, load_config(full).vocab_size, str(full))
    source = Path(c.source)
    if source.suffix == ".txt":
        for key, empty in (("positions", "all"), ("families", ())):
            if c[key] != empty:
                raise InputError(
                    f"calibrate.{key}: found {c[key]!r}, but {source} is plain text, without "
                    f"answers and families; expected {empty!r}"
                )
        return choose_samples(read_text(source, tokenizer), c)
    rejected: list[Rejected] = []
    template, options = load_template(full), read_options(config.text)
    examples = read_examples(source, c.split, tokenizer, template, options, rejected)
    with contextlib.closing(reported(source, examples, rejected)) as examples:
        return choose_samples(from_examples(of_families(examples, c.families, source)), c)


def choose_samples(rows: Iterable[Row], c: ml_collections.ConfigDict) -> Samples:
    """Takes of the rows what `config.calibrate` asks for, and reads no more than that needs."""
    if c.rows == "packed":
        return join(rows, c.samples, c.length)
    return select(rows, c.positions, c.samples, c.length, longest=c.rows == "longest")


def of_families(
    examples: Iterable[Example], families: Sequence[str], source: Path
) -> Iterator[Example]:
    """The examples of these families; without any, all of them.

    Raises:
      InputError: no row is of one of them.
    """
    missing = set(families)
    for example in examples:
        if not families or example.family in families:
            missing.discard(example.family)
            yield example
    if missing:
        raise InputError(f"calibrate.families: {source} has no row of family {min(missing)!r}")


def reported(
    source: Path, examples: Iterable[Example], rejected: Sequence[Rejected]
) -> Iterator[Example]:
    """The same examples; tells what was rejected on the way, once no more of them are wanted.

    Raises:
      InputError: there is none.
    """
    number = 0
    with contextlib.suppress(GeneratorExit):
        for number, example in enumerate(examples, 1):  # noqa: B007
            yield example
    report(source, number, rejected)
