"""A config of a small run on a slice of TPUs."""

import json

import ml_collections
import pytest

from configs import default
from overfill_jax.weights.hugging_face_config import to_hugging_face
from tests.builders import CONFIG


@pytest.fixture
def config(tmp_path) -> ml_collections.ConfigDict:
    """Planned for 16 chips, as one block of fsdp."""
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(to_hugging_face(CONFIG, "bfloat16", {})))
    config = default.get_config()
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.prune.hidden, config.prune.intermediate = 16, 32
    config.train.batch_size = 16
    config.plan.model = str(shape)
    config.plan.chip, config.plan.topology = "v5e", "4x4"
    config.plan.prompt, config.plan.answer = 64, 64
    return config
