"""The tiny Hugging Face models of `tests/fixtures`."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from overfill_jax.two_stage import extend, prefill

MODELS = Path(__file__).parent.parent / "fixtures" / "models"
NAMES = sorted(path.name for path in MODELS.iterdir())


@pytest.fixture(params=NAMES)
def golden(request) -> Path:
    """Each model in turn."""
    return MODELS / request.param


@pytest.fixture
def broken(tmp_path) -> Path:
    """A copy of one model, to be broken."""
    return Path(shutil.copytree(MODELS / "llama3.1", tmp_path / "broken"))


@jax.jit
def logits(model, tokens):
    """Of every position: the first token by prefill, the others by extend."""
    batch, length = tokens.shape
    first, cache = prefill(model, tokens[:, :1], jnp.ones(batch, jnp.int32), length - 1)
    others, _ = extend(model, tokens[:, 1:], cache)
    return jnp.concatenate([first[:, None], others], axis=1)
