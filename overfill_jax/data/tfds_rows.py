"""Owns instruction rows as a TFDS dataset (array_record files, no TensorFlow).

Rows of instruction data have no common set of columns, so a record is a line of JSON and its
number; what is wrong with a line is found when it is read, exactly as with the file it came from.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from overfill_jax.errors import InputError
from overfill_jax.files import replace_folder

# Numbered lines, from the beginning at every call.
Lines = Callable[[], Iterable[tuple[int, bytes]]]


class JsonlRows(tfds.core.GeneratorBasedBuilder):
    """Lines of JSON, by split."""

    VERSION = tfds.core.Version("1.0.0")
    # Where TFDS would look for checksums of downloads. There are none, and its search imports
    # importlib_resources, which TFDS 4.9.10 does not declare.
    code_path = None

    def __init__(self, *, lines: Mapping[str, Lines], **kwargs):
        self._lines = dict(lines)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"row": tfds.features.Scalar(np.int64), "line": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Instruction rows: the lines of JSONL files, with their numbers.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # everything is local
        return {split: self._generate_examples(lines) for split, lines in self._lines.items()}

    def _generate_examples(self, lines: Lines):
        for row, line in lines():
            yield row, {"row": row, "line": line}


def build(lines: Mapping[str, Lines], target: Path) -> None:
    """Writes splits of numbered lines to the folder `target`, whole or not at all.

    With several processes on one disk, only one of them may call this.

    Raises:
      InputError: `target` cannot be written, or the lines cannot be read.
    """
    with replace_folder(target) as folder:
        builder = JsonlRows(lines=lines, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()


def read_lines(folder: Path, split: str) -> list[tuple[int, bytes]]:
    """Returns (line number, line) of one split of a folder that `build` made, in line order.

    Raises:
      InputError: the folder is not of this kind, half-written or damaged, or lacks the split.
    """
    version = folder / JsonlRows.name / str(JsonlRows.VERSION)
    try:
        builder = tfds.builder_from_directory(version)
        splits = sorted(builder.info.splits)
        if split not in splits:
            raise InputError(f"{folder}: no split {split!r}, expected one of {splits}")
        source = builder.as_data_source(split)
        # Records lie in hashed order.
        return sorted((int(one["row"]), one["line"]) for one in source)
    except InputError:
        raise
    except Exception as error:  # TFDS and array_record raise a different one for every damage
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: not a whole TFDS folder of rows ({reason})") from error
