"""The train stage: full/, pruned/ and instruction data into decoder/ or one of the baselines."""

import functools
import math
from pathlib import Path

import jax
import ml_collections
from absl import logging

from overfill_jax import distributed, record
from overfill_jax.chips import local_chip
from overfill_jax.data.batches import Batch
from overfill_jax.data.loader import TrainingLoader, ValidationLoader, read_ahead
from overfill_jax.data.packing import RowShape
from overfill_jax.model.mesh import make_mesh
from overfill_jax.model.transformer import Model, Params
from overfill_jax.training.curves import plot_curves
from overfill_jax.training.flops import step_flops
from overfill_jax.training.inputs import FOLDERS, load_configs, load_data, load_models
from overfill_jax.training.loop import Intervals, Watch, fit
from overfill_jax.training.methods import Method, choose_method
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.outputs import save_outputs, with_adapters
from overfill_jax.training.pace import Pace
from overfill_jax.training.placement import (
    check_batch,
    compile_steps,
    make_placement,
    to_devices,
)
from overfill_jax.training.profiling import Profiler
from overfill_jax.training.resume import abstract_tree, first_state
from overfill_jax.training.settings import check_same_run, check_settings, run_settings
from overfill_jax.training.setup import make_setup
from overfill_jax.training.step import Setup, TrainState
from overfill_jax.weights.checkpoints import Checkpoints
from overfill_jax.weights.folders import (
    fingerprint,
)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains by `config.train.method` and saves the best state by validation loss."""
    c = config.train
    check_settings(c)
    method = choose_method(c.method, c.freeze, c.kl_weight, c.handoffs, c.lora_rank)
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

    Of what training changes, `models` keeps the shapes and dtypes alone: beside the state, and
    beside the best weights at the end, the devices hold no other copy.
    """
    c = config.train
    mesh = jax.sharding.get_mesh()
    placement = make_placement(setup, mesh)
    frozen = {name: models[name].params for name in placement.frozen}
    step_once, validate = compile_steps(setup, placement)
    folder, steps = workdir / "metrics" / method.name, settings["steps in all"]
    put = functools.partial(to_devices, sharding=placement.batch)
    with Checkpoints(workdir / "checkpoints" / method.name, c.keep_last) as checkpoints:
        check_same_run(folder / "run.json", settings, checkpoints.latest)
        if distributed.is_main():
            # Not left to the end of the stage, which a run that is killed never sees.
            record.write_config(record.config_path(workdir, "train", config), config)
        state = first_state(checkpoints, setup, placement, models, config.seed)
        logging.info(
            "training %s: %d steps of %d rows, %s parameters", method.name, steps, c.batch_size,
            f"{sum(x.size for x in jax.tree.leaves(state.params)):,}",
        )  # fmt: skip
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
        best = checkpoints.restore_best({"params": wanted["params"]}, partial=True)["params"]
    if distributed.is_main():
        plot_curves(folder, method.name)
    return with_adapters(setup, placement, frozen, best) if setup.low_rank else best


def make_pace(setup: Setup, rows: int, shape: RowShape) -> Pace:
    """The watch over the speed of a run."""
    flops = step_flops(setup, rows, (shape.prompt_slots, shape.answer_slots))
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
    return put(functools.partial(loader.rows, step), loader.batch_size)
