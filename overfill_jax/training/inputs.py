"""What a training run reads from its workdir: shapes, weights, examples."""

import dataclasses
import functools
from pathlib import Path

import jax
import ml_collections
from jax.sharding import Mesh

from overfill_jax.data.instructions import read_options
from overfill_jax.data.loader import TrainingLoader, ValidationLoader
from overfill_jax.data.mixture import load_mixture
from overfill_jax.data.packing import choose_shape
from overfill_jax.data.tokenizers import check_stop, check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model, Params, init
from overfill_jax.training.methods import Method
from overfill_jax.two_stage import check_handoff
from overfill_jax.weights.folders import check_pair, load_config, load_model

FOLDERS = {"full": "full", "decoder": "pruned"}


def load_configs(
    config: ml_collections.ConfigDict, method: Method, workdir: Path
) -> dict[str, ModelConfig]:
    """The shapes of the models that the method needs, by name, computing as the config says."""
    c = config.train
    names = {method.reader, method.writer} | ({"full"} if c.kl_weight else set())
    configs = {name: load_config(workdir / FOLDERS[name]) for name in sorted(names)}
    if len(configs) == 2:
        check_pair(workdir / FOLDERS["full"], workdir / FOLDERS["decoder"], c.first_token)
        check_handoff(configs["full"], configs["decoder"])
    return {
        name: dataclasses.replace(one, dtype=c.dtype, attention=config.attention)
        for name, one in configs.items()
    }


def load_models(
    config: ml_collections.ConfigDict, configs: dict[str, ModelConfig], mesh: Mesh, workdir: Path
) -> dict[str, Model]:
    """The models on their places of the mesh, in the dtype that they are stored in."""
    models = {}
    for name, shape in configs.items():
        shardings = weight_shardings(shape, mesh)
        params = load_model(workdir / FOLDERS[name], shardings=shardings).params
        if name == "decoder" and config.train.method == "scratch":
            params = drawn_like(shape, config.seed, params)
        models[name] = Model(shape, params)
    return models


def load_data(
    config: ml_collections.ConfigDict, configs: dict[str, ModelConfig], workdir: Path
) -> tuple[TrainingLoader, ValidationLoader]:
    """Training and validation data; without `train.validation` the last examples are held out."""
    c = config.train
    if not c.source:
        raise InputError("train.source: found nothing, expected JSONL files or TFDS folders")
    folder = workdir / FOLDERS["full" if "full" in configs else "decoder"]
    vocab_size = next(iter(configs.values())).vocab_size
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, vocab_size, str(folder))
    check_stop(tokenizer, str(folder))
    load = functools.partial(
        load_mixture, tokenizer=folder, options=read_options(config.text), folder=workdir / "tokens"
    )
    training = load(c.source, c.split)
    if c.validation:
        held_out = load(c.validation, c.validation_split).first(c.validation_rows)
    else:
        try:
            training, held_out = training.hold_out(c.validation_rows)
        except InputError as error:
            hint = "fewer, or others named by train.validation, would do"
            raise InputError(f"train.validation_rows: {error}; {hint}") from error
    shapes = [
        choose_shape(
            mixture.prompts, mixture.answers, cutoff, c.packing, c.sequence_length, c.prompt_slots
        )
        for mixture, cutoff in ((training, c.cutoff), (held_out, False))
    ]
    longest = min(one.max_position for one in configs.values())
    for name, mixture in (("source", training), ("validation", held_out)):
        most = int((mixture.prompts + mixture.answers).max())
        if most > longest:
            raise InputError(
                f"train.{name}: found an example of {most} tokens, the models read {longest}; "
                f"expected text.max_total_tokens to be at most that"
            )
    return (
        TrainingLoader(training, shapes[0], c.batch_size, config.seed, c.cutoff, c.handoffs),
        # Of a micro-batch's rows: what fits in memory while it trains also fits here.
        ValidationLoader(held_out, shapes[1], c.batch_size // c.accumulation, c.handoffs),
    )


def drawn_like(shape: ModelConfig, seed: int, params: Params) -> Params:
    """Random weights in the dtypes and on the devices of others; whole nowhere."""

    @functools.partial(jax.jit, out_shardings=jax.tree.map(lambda x: x.sharding, params))
    def draw(key: jax.Array) -> Params:
        return cast_like(init(shape, key).params, params)

    return draw(jax.random.key(seed))


def cast_like(params: Params, pattern: Params) -> Params:
    """The same weights in the dtypes of others."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), params, pattern)
