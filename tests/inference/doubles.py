"""Stand-ins for what inference takes from other rooms."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from overfill_jax.model.transformer import Model, abstract
from tests.builders import CONFIG


class Spelled:
    """A tokenizer that only decodes, by the function it is given."""

    vocab_size = CONFIG.vocab_size
    bos_id = None
    pad_id = 0
    stop_ids = ()

    def __init__(self, decode: Callable):
        self.decode = decode

    def encode(self, text):
        raise NotImplementedError


def random_model(seed: int, **changes) -> Model:
    """Weights by numpy, which compiles nothing; so large that answers settle on no token."""
    rng = np.random.default_rng(seed)
    shapes = abstract(dataclasses.replace(CONFIG, **changes), "float32")
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
