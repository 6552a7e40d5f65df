"""The train stage: full/, pruned/ and instruction data into decoder/ or one of the baselines."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import ml_collections
from absl import logging
from jax.sharding import Mesh

from overfill_jax import distributed, files
from overfill_jax.chips import local_chip
from overfill_jax.data.batches import Batch
from overfill_jax.data.instructions import read_options
from overfill_jax.data.loader import TrainingLoader, ValidationLoader, read_ahead
from overfill_jax.data.mixture import load_mixture
from overfill_jax.data.packing import RowShape, choose_shape
from overfill_jax.data.tokenizers import check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Model, Params, init
from overfill_jax.training.curves import plot_curves
from overfill_jax.training.flops import step_flops
from overfill_jax.training.loop import Intervals, Watch, fit, state_tree
from overfill_jax.training.methods import Method, choose_method
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.pace import Pace
from overfill_jax.training.placement import (
    Placement,
    abstract_state,
    check_batch,
    compile_steps,
    make_placement,
    to_devices,
)
from overfill_jax.training.profiling import Profiler
from overfill_jax.training.settings import check_same_run, check_settings, run_settings
from overfill_jax.training.setup import make_setup
from overfill_jax.training.step import Setup, TrainState, init_state
from overfill_jax.two_stage import check_handoff
from overfill_jax.weights.checkpoints import Checkpoints
from overfill_jax.weights.folders import (
    check_pair,
    fingerprint,
    load_config,
    load_fingerprint,
    load_model,
    load_origin,
    save_model,
)
from overfill_jax.weights.origin import Origin

FOLDERS = {"full": "full", "decoder": "pruned"}


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains by `config.train.method` and saves the best state by validation loss."""
    c = config.train
    check_settings(c)
    method = choose_method(c.method, c.freeze, c.kl_weight)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_batch(c.batch_size, c.accumulation, mesh)
    configs = load_configs(config, method, workdir)
    training, validation = load_data(config, configs, workdir)
    steps = c.steps or training.steps(c.epochs)
    setup = make_setup(c, method, configs, steps)
    with jax.set_mesh(mesh):
        models = load_models(config, configs, mesh, workdir)
        prints = {name: fingerprint(model) for name, model in models.items()}
        folders = {name: workdir / FOLDERS[name] for name in models}
        settings = run_settings(config, folders, prints, steps, training, validation)
        best = train(config, method, setup, models, training, validation, settings, workdir)
        save_outputs(method, models, best, prints, c.first_token, workdir)


def train(
    config: ml_collections.ConfigDict,
    method: Method,
    setup: Setup,
    models: dict[str, Model],
    training: TrainingLoader,
    validation: ValidationLoader,
    settings: dict[str, object],
    workdir: Path,
) -> dict[str, Params]:
    """Trains, or goes on where the last checkpoint stands; the best weights by validation loss.

    Of what is trained, `models` keeps the shapes and dtypes alone: beside the state, and beside
    the best weights at the end, the devices hold no other copy.
    """
    c = config.train
    mesh = jax.sharding.get_mesh()
    placement = make_placement(setup, mesh)
    frozen = {name: m.params for name, m in models.items() if name not in method.trained}
    step_once, validate = compile_steps(setup, placement)
    folder, steps = workdir / "metrics" / method.name, settings["steps in all"]
    put = functools.partial(to_devices, count=c.batch_size, sharding=placement.batch)
    with Checkpoints(workdir / "checkpoints" / method.name, c.keep_last) as checkpoints:
        check_same_run(folder / "run.json", settings, checkpoints.latest)
        if distributed.is_main():
            # Not left to the end of the stage, which a run that is killed never sees.
            files.write_text(workdir / f"configs/train.{c.method}.yaml", config.to_yaml())
        state = first_state(checkpoints, setup, placement, models)
        logging.info("training %s: %d steps of %d rows", method.name, steps, c.batch_size)
        watch = Watch(
            MetricsWriter(folder, steps, int(state.step)),
            make_pace(setup, c.batch_size, training.shape),
            Profiler(folder / "profile", c.profile_at, c.profile_steps),
        )
        try:
            fit(
                lambda state, batch: step_once(state, frozen, batch),
                lambda state: validation_loss(validate, state, frozen, validation, put),
                state,
                read_ahead(functools.partial(_batch, training, put), int(state.step), steps),
                steps,
                Intervals(c.log_every, c.validate_every, c.checkpoint_every),
                checkpoints,
                watch,
            )
        finally:
            watch.close()
        del state  # of a run that was finished before; all others have donated it
        wanted = abstract_tree(setup, placement)
        best = checkpoints.restore_best({"params": wanted["params"]}, partial=True)
    if distributed.is_main():
        plot_curves(folder, method.name)
    return best["params"]


def make_pace(setup: Setup, rows: int, shape: RowShape) -> Pace:
    """The watch over the speed of a run."""
    flops = step_flops(
        dict(setup.configs),
        setup.roles,
        setup.trained,
        bool(setup.objective.kl_weight),
        setup.remat,
        rows,
        (shape.prompt_slots, shape.answer_slots),
    )
    chip = local_chip()
    return Pace(flops.model / jax.device_count(), chip and chip.flops)


def validation_loss(validate, state: TrainState, frozen, loader: ValidationLoader, put) -> float:
    """Mean loss per counted answer token over all validation batches."""
    sums = [
        validate(state.params, frozen, _batch(loader, put, step)) for step in range(loader.steps)
    ]
    loss, tokens = (math.fsum(float(one[name]) for one in sums) for name in ("loss", "tokens"))
    return loss / max(tokens, 1.0)


def _batch(loader: TrainingLoader | ValidationLoader, put, step: int) -> Batch:
    return put(functools.partial(loader.rows, step))


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
            fresh = jax.jit(lambda key, shape=shape: init(shape, key).params)
            params = _cast_like(fresh(jax.random.key(config.seed)), params)
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
    check_vocabulary(load_tokenizer(folder), vocab_size, str(folder))
    load = functools.partial(
        load_mixture, tokenizer=folder, options=read_options(config.text), folder=workdir / "tokens"
    )
    training = load(c.source, c.split)
    if c.validation:
        held_out = load(c.validation, c.validation_split).first(c.validation_rows)
    else:
        training, held_out = training.hold_out(c.validation_rows)
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
        TrainingLoader(training, shapes[0], c.batch_size, config.seed, c.cutoff),
        ValidationLoader(held_out, shapes[1], c.batch_size),
    )


def first_state(
    checkpoints: Checkpoints, setup: Setup, placement: Placement, models: dict[str, Model]
) -> TrainState:
    """The newest saved state that can be read, or that of step 0 where nothing is saved yet.

    Takes the weights of what is trained out of `models`, and leaves their shapes.
    """
    weights = {name: models[name].params for name in sorted(setup.trained)}
    for name, params in weights.items():
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        models[name] = dataclasses.replace(models[name], params=shapes)
    del params
    if checkpoints.latest is None:
        begin = jax.jit(functools.partial(init_state, setup), out_shardings=placement.state)
        return begin(weights)
    del weights  # before as much is read from the disk
    found = checkpoints.restore_newest(abstract_tree(setup, placement))
    logging.info("resuming after step %d", int(found["step"]))
    return TrainState(**found)


def abstract_tree(setup: Setup, placement: Placement) -> dict:
    """Shapes, dtypes and shardings of a run's state, to restore one."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        state_tree(abstract_state(setup)),
        state_tree(placement.state),
    )


def save_outputs(
    method: Method,
    models: dict[str, Model],
    best: dict[str, Params],
    before: dict[str, str],
    first_token: str,
    workdir: Path,
) -> None:
    """Writes the trained models in the dtype that their weights came in, with what they are of."""
    trained = {
        name: dataclasses.replace(models[name], params=_cast_like(best[name], models[name].params))
        for name in sorted(method.outputs)
    }
    if method.name == "scratch":  # only the shape is the pruned model's
        before = {**before, "decoder": load_fingerprint(workdir / FOLDERS["decoder"])}
    for name, model in trained.items():
        if name == "full":
            origin = Origin(before["full"], first_token=None)
        elif method.reader == "full":
            full = fingerprint(trained["full"]) if "full" in trained else before["full"]
            origin = Origin(full, first_token, before["decoder"])
        else:
            cut = load_origin(workdir / FOLDERS["decoder"])
            origin = Origin(cut and cut.full, None, before["decoder"])
        folder = workdir / method.outputs[name]
        save_model(folder, model, workdir / FOLDERS[name], origin)
        logging.info("saved %s", folder)


def _cast_like(params: Params, pattern: Params) -> Params:
    return jax.tree.map(lambda new, old: new.astype(old.dtype), params, pattern)
