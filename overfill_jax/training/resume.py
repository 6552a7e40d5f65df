"""The state that a run begins with: the newest one saved, or that of step 0."""

import dataclasses
import functools

import jax
from absl import logging

from overfill_jax.model.low_rank import init_adapters
from overfill_jax.model.transformer import Model, Params
from overfill_jax.training.placement import Placement, abstract_state
from overfill_jax.training.step import Setup, TrainState, init_state, state_tree
from overfill_jax.weights.checkpoints import Checkpoints


def first_state(
    checkpoints: Checkpoints,
    setup: Setup,
    placement: Placement,
    models: dict[str, Model],
    seed: int,
) -> TrainState:
    """The newest saved state that can be read, or that of step 0 where nothing is saved yet.

    Takes the weights that training changes out of `models`, and leaves their shapes. Adapters are
    drawn from the seed.
    """
    weights = {} if setup.low_rank else _taken(models, setup)
    if checkpoints.latest is None:

        @functools.partial(jax.jit, out_shardings=placement.state)
        def begin(weights: dict[str, Params]) -> TrainState:
            return init_state(setup, weights or _adapters(setup, seed))

        return begin(weights)
    del weights  # before as much is read from the disk
    found = checkpoints.restore_newest(abstract_tree(setup, placement))
    logging.info("resuming after step %d", int(found["step"]))
    return TrainState(**found)


def _taken(models: dict[str, Model], setup: Setup) -> dict[str, Params]:
    weights = {name: models[name].params for name in sorted(setup.trained)}
    for name, params in weights.items():
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        models[name] = dataclasses.replace(models[name], params=shapes)
    return weights


def _adapters(setup: Setup, seed: int) -> dict[str, Params]:
    configs, key = dict(setup.configs), jax.random.key(seed)
    return {name: init_adapters(configs[name], setup.low_rank.rank, key) for name in setup.trained}


def abstract_tree(setup: Setup, placement: Placement) -> dict:
    """Shapes, dtypes and shardings of a run's state, to restore one."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        state_tree(abstract_state(setup)),
        state_tree(placement.state),
    )
