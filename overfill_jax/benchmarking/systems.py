"""The systems that are timed: full model, decoder and both, with random weights of true shapes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import find_refresh
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.quantised import Scheme, quantise_model, stored_bytes
from overfill_jax.model.transformer import Model, abstract
from overfill_jax.planning.workload import pruned_shape, read_shape

FULL, DECODER, TWO_STAGE = "full", "decoder alone", "two-stage"


@dataclasses.dataclass(frozen=True)
class Systems:
    """What is timed: generators by name, with the bytes of weights that one step reads."""

    generators: dict[str, Generator]
    weights: dict[str, float]
    cached: dict[str, int]
    vocabulary: int
    longest: int


def make_pair(config: ml_collections.ConfigDict) -> tuple[Model, Model]:
    """Random models of the shapes in `plan.model` and `prune`, in the dtype of `generate`."""
    shape = read_shape(config.plan.model)
    shape = dataclasses.replace(shape, dtype=config.generate.dtype, attention=config.attention)
    return random_weights(shape, 0), random_weights(pruned_shape(shape, config.prune), 1)


def random_weights(config: ModelConfig, seed: int) -> Model:
    """Small random weights, drawn where they will lie, array by array."""
    shapes = abstract(config, config.dtype)
    leaves, tree = jax.tree.flatten(shapes.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    @functools.partial(jax.jit, static_argnums=1)
    def draw(key, like):
        return 0.02 * jax.random.normal(key, like.shape, like.dtype)

    drawn = [draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)]
    return Model(config, tree.unflatten(drawn))


def make_systems(config: ml_collections.ConfigDict, full: Model, decoder: Model) -> Systems:
    """The full model, the decoder, and both as `generate` and `quantise` say."""
    c = config.generate
    refresh = find_refresh(c.refresh, c.refresh_interval, c.refresh_entropy, c.refresh_strictness)
    writer = make_writer(config, decoder)
    generators = {
        FULL: Generator(full, full, "full", (), 0),
        DECODER: Generator(writer, writer, "full", (), 0, cache=c.cache),
        TWO_STAGE: Generator(full, writer, c.first_token, (), 0, refresh=refresh, cache=c.cache),
    }
    return Systems(
        generators=generators,
        weights={
            FULL: read_bytes(full),
            DECODER: read_bytes(writer),
            TWO_STAGE: read_bytes(writer),
        },
        cached={
            name: cache_bytes(full.config, "" if name == FULL else c.cache) for name in generators
        },
        vocabulary=full.config.vocab_size,
        longest=full.config.max_position,
    )


def make_writer(config: ml_collections.ConfigDict, decoder: Model) -> Model:
    """The decoder in `benchmark.precision`."""
    if not config.benchmark.precision:
        return decoder
    return quantise_model(decoder, Scheme(config.benchmark.precision, config.quantise.group))


def read_bytes(model: Model) -> float:
    """Of the weights that one step reads: not of an embedding that does not unembed as well."""
    embed = model.params["embed"] if "unembed" in model.params else {}
    return stored_bytes(model.params) - stored_bytes(embed)


def cache_bytes(config: ModelConfig, cache: str) -> int:
    """Of one token's keys and values."""
    width = jnp.dtype(config.dtype).itemsize
    entry = config.head_dim + width if cache == "int8" else config.head_dim * width
    return 2 * config.num_layers * config.num_kv_heads * entry
