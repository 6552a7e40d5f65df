"""A step of a large shape, without any config file."""

import dataclasses

from jax.sharding import AbstractMesh

from configs import default
from overfill_jax.model.mesh import AXES
from overfill_jax.planning.workload import Workload, read_shape
from overfill_jax.training.methods import METHODS
from overfill_jax.training.setup import make_setup
from tests.conftest import REPOSITORY

WIDTHS = {"llama3_2_3b": (1536, 5376), "llama3_1_8b": (2304, 8320)}


def workload(name: str = "llama3_2_3b", mesh: tuple[int, int, int] = (1, 16, 1), **changes):
    """The step of a shape, with changes of `train` and other widths of the decoder."""
    full = read_shape(str(REPOSITORY / "configs" / "shapes" / f"{name}.json"))
    full = dataclasses.replace(full, dtype="bfloat16")
    hidden, intermediate = changes.pop("widths", WIDTHS[name])
    decoder = dataclasses.replace(full, hidden_size=hidden, intermediate_size=intermediate)
    train = default.get_config().train
    train.update({"accumulation": 1, "remat": "full", "loss_chunk": 256, "kl_weight": 0.0})
    rows = changes.pop("rows", 32)
    train.update(changes)
    return Workload(
        setup=make_setup(train, METHODS["two_stage"], {"decoder": decoder, "full": full}, 1),
        rows=rows,
        prompt_slots=1024,
        answer_slots=1024,
        frozen_dtype="bfloat16",
        mesh=AbstractMesh(mesh, AXES),
    )
