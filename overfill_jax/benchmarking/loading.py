"""The loader alone: how well it fills rows, and how many tokens a core packs a second."""

import dataclasses
import time
from pathlib import Path

import ml_collections
import numpy as np

from overfill_jax.data.loader import Filling
from overfill_jax.training.inputs import FOLDERS, load_data
from overfill_jax.weights.folders import load_config


@dataclasses.dataclass(frozen=True)
class LoadTime:
    """One shape of rows.

    Attributes:
      name: the settings that it differs in.
      filling: of the rows of an epoch.
      tokens: in the batches that were made, padding left out.
      seconds: of one core that it took, the packing of every epoch included; the text was
        tokenised before.
    """

    name: str
    filling: Filling
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second of a core."""
        return self.tokens / self.seconds


def time_loading(
    config: ml_collections.ConfigDict, workdir: Path, name: str, epochs: int
) -> LoadTime:
    """Makes the batches of so many epochs, one after the other.

    Args:
      config: of a run.
      workdir: of it; the tokenizer in `full/` is used.
      name: of this variant.
      epochs: passes over the training data.
    """
    shapes = {"full": load_config(workdir / FOLDERS["full"])}
    load_data(config, shapes, workdir)  # the first time, the text is tokenised
    # Of this process, so that a busy machine does not count.
    began, tokens = time.process_time(), 0
    loader, _ = load_data(config, shapes, workdir)
    for step in range(loader.steps(epochs)):
        batch = loader.rows(step, 0, config.train.batch_size)
        tokens += np.count_nonzero(batch.prompt_segments) + np.count_nonzero(batch.answer_segments)
    return LoadTime(name, loader.filling, int(tokens), time.process_time() - began)
