"""The systems that are timed: full model, decoder and both, with random weights of true shapes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from overfill_jax.errors import InputError
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.refresh import find_refresh
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.quantised import Scheme, check_runs, quantise_model, stored_bytes
from overfill_jax.model.transformer import Model, abstract
from overfill_jax.planning.workload import pruned_shape, read_shape

FULL, DECODER, TWO_STAGE = "full", "decoder alone", "two-stage"


@dataclasses.dataclass(frozen=True)
class Systems:
    """What is timed.

    Attributes:
      generators: by name.
      weights: bytes of them that a token reads.
      cached: bytes that it reads for every token before it.
      vocabulary, longest: of the models.
    """

    generators: dict[str, Generator]
    weights: dict[str, float]
    cached: dict[str, float]
    vocabulary: int
    longest: int


def check_interval(config: ml_collections.ConfigDict, shortest: int) -> None:
    """Refuses an interval that the shortest answer does not reach, before anything is timed.

    Raises:
      InputError: says both.
    """
    c = config.generate
    if c.refresh != "none" and c.refresh_interval > shortest:
        raise InputError(
            f"generate.refresh_interval: found {c.refresh_interval}, but the shortest answer has "
            f"{shortest} tokens; expected no more than that"
        )


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
    weights = {FULL: read_bytes(full), DECODER: read_bytes(writer)}
    cached = {FULL: cached_bytes(full.config, ""), DECODER: cached_bytes(writer.config, c.cache)}
    # Of a block of R tokens the decoder reads for all but one, and the full model once.
    drafted = 1 - 1 / refresh.interval if refresh else 1.0
    for of in (weights, cached):
        of[TWO_STAGE] = drafted * of[DECODER] + (1 - drafted) * of[FULL]
    return Systems(
        generators=generators,
        weights=weights,
        cached=cached,
        vocabulary=full.config.vocab_size,
        longest=full.config.max_position,
    )


def make_writer(config: ml_collections.ConfigDict, decoder: Model) -> Model:
    """The decoder in `benchmark.precision`.

    Raises:
      InputError: the device here cannot run it.
    """
    if not config.benchmark.precision:
        return decoder
    scheme = Scheme(config.benchmark.precision, config.quantise.group)
    check_runs(scheme, config.generate.dtype, "benchmark.precision")
    return quantise_model(decoder, scheme)


def read_bytes(model: Model) -> float:
    """Of the weights that one step reads: not of an embedding that does not unembed as well."""
    embed = model.params["embed"] if "unembed" in model.params else {}
    return stored_bytes(model.params) - stored_bytes(embed)


def cached_bytes(config: ModelConfig, cache: str) -> float:
    """Of one token's keys and values."""
    width = jnp.dtype(config.dtype).itemsize
    entry = config.head_dim + width if cache == "int8" else config.head_dim * width
    return 2.0 * config.num_layers * config.num_kv_heads * entry
