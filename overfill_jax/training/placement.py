"""Where state, frozen weights and batches of a run lie on the mesh; the steps compiled for it."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from overfill_jax.data.batches import Batch, lay_out
from overfill_jax.errors import InputError
from overfill_jax.model.layout import partition
from overfill_jax.model.low_rank import abstract_adapters, adapter_shardings
from overfill_jax.model.sharding import weight_shardings
from overfill_jax.model.transformer import Params, abstract
from overfill_jax.training.step import Setup, TrainState, init_state, train_step, validation_sums

# Rows from start to stop of a global batch.
Rows = Callable[[int, int], Batch]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Shardings of everything that a step takes.

    Attributes:
      mesh: the devices.
      state: a `TrainState` of shardings; moments lie where their weights do.
      frozen: of the weights that are not trained, by the name of their model.
      batch: of every array of a batch, by rows.
    """

    mesh: Mesh
    state: TrainState
    frozen: dict[str, Params]
    batch: NamedSharding

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())


def make_placement(setup: Setup, mesh: Mesh) -> Placement:
    """Lays out the models of a run by the one table of `model/layout.py`."""
    weights = {name: weight_shardings(config, mesh) for name, config in setup.configs}
    trained = {name: weights[name] for name in setup.trained}
    frozen = {name: w for name, w in weights.items() if name not in setup.trained}
    if setup.low_rank:
        configs, rank = dict(setup.configs), setup.low_rank.rank
        trained = {name: adapter_shardings(configs[name], rank, mesh) for name in setup.trained}
        frozen = weights
    everywhere = NamedSharding(mesh, PartitionSpec())
    optimizer = optax.tree_utils.tree_map_params(
        setup.optimizer,
        lambda _, sharding: sharding,
        abstract_state(setup).optimizer,
        trained,
        transform_non_params=lambda _: everywhere,
    )
    spec, _ = partition(("batch",), (mesh.size,), mesh)
    return Placement(
        mesh=mesh,
        state=TrainState(everywhere, trained, optimizer),
        frozen=frozen,
        batch=NamedSharding(mesh, spec),
    )


def abstract_state(setup: Setup) -> TrainState:
    """Shapes and dtypes of a run's state, holding nothing."""
    configs = dict(setup.configs)
    params = {
        name: abstract_adapters(configs[name], setup.low_rank.rank)
        if setup.low_rank
        else abstract(configs[name], "float32").params
        for name in setup.trained
    }
    return jax.eval_shape(functools.partial(init_state, setup), params)


def abstract_inputs(
    setup: Setup, placement: Placement, rows: int, slots: tuple[int, int], frozen_dtype: str
) -> tuple[TrainState, dict[str, Params], Batch]:
    """State, frozen weights and batch of a step: shapes and shardings, holding nothing.

    Args:
      setup: of the run.
      placement: of its arrays.
      rows: of the global batch.
      slots: of every row, for prompts and for answers.
      frozen_dtype: that the weights that are not trained are stored in.
    """

    def placed(shapes, shardings):
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            shapes,
            shardings,
        )

    configs = dict(setup.configs)
    frozen = {name: abstract(configs[name], frozen_dtype).params for name in placement.frozen}
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, x.shape[1]), x.dtype, sharding=placement.batch),
        lay_out([[]], *slots),
    )
    return (
        placed(abstract_state(setup), placement.state),
        placed(frozen, placement.frozen),
        batch,
    )


def compile_steps(setup: Setup, placement: Placement) -> tuple[Callable, Callable]:
    """The train step `(state, frozen, batch)`, whose state is donated, and the validation step.

    Both are compiled at their first call for a shape of batch; call them under
    `jax.set_mesh(placement.mesh)`.
    """
    places = placement.state, placement.frozen, placement.batch
    step = jax.jit(
        functools.partial(train_step, setup),
        in_shardings=places,
        out_shardings=(placement.state, placement.replicated),
        donate_argnums=0,
    )
    validate = jax.jit(
        functools.partial(validation_sums, setup),
        in_shardings=(placement.state.params, *places[1:]),
        out_shardings=placement.replicated,
    )
    return step, validate


def check_batch(rows: int, accumulation: int, mesh: Mesh | AbstractMesh) -> None:
    """Refuses a batch that micro-batches and devices cannot share evenly.

    Raises:
      InputError: names the batch, the micro-batches and the parts of the mesh.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (accumulation * parts):
        raise InputError(
            f"train.batch_size: found {rows}, expected a multiple of {accumulation * parts} "
            f"(train.accumulation {accumulation} x data {mesh.shape['data']} "
            f"x fsdp {mesh.shape['fsdp']})"
        )


def to_devices(rows: Rows, count: int, sharding: NamedSharding) -> Batch:
    """A global batch of `count` rows, of which every process makes those of its own devices."""
    devices = sharding.addressable_devices_indices_map((count,))
    spans = {device: index[0].indices(count)[:2] for device, index in devices.items()}
    parts = {span: rows(*span) for span in sorted(set(spans.values()))}

    def place(*fields: np.ndarray) -> jax.Array:
        by_span = dict(zip(parts, fields, strict=True))
        shards = [jax.device_put(by_span[span], device) for device, span in spans.items()]
        shape = (count, *fields[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    return jax.tree.map(place, *parts.values())
