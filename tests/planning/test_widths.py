"""Widths near those that a ratio gives, which transformers loads."""

import dataclasses
import math

import pytest

from overfill_jax.model.size import parameters
from overfill_jax.planning.widths import legal_widths
from overfill_jax.planning.workload import read_shape
from tests.conftest import REPOSITORY

SHAPES = REPOSITORY / "configs" / "shapes"


def pruned(name: str, hidden: int, intermediate: int):
    full = read_shape(str(SHAPES / f"{name}.json"))
    changes = {"hidden_size": hidden, "intermediate_size": intermediate}
    return full, dataclasses.replace(full, **changes)


def test_the_paper_s_widths_of_3b():
    full, decoder = pruned("llama3_2_3b", 1689, 4505)
    assert round(parameters(full) / 1e9, 3) == 3.213
    assert round(parameters(decoder) / 1e9, 3) == 1.243
    best = legal_widths(full, decoder)[0]
    assert (best.hidden, best.intermediate) == (1536, 5376)
    assert round(best.parameters / 1e9, 3) == 1.243


@pytest.mark.parametrize(
    ("name", "billions"), [("llama3_2_3b", 3.213), ("llama3_1_8b", 8.030), ("qwen2_5_7b", 7.616)]
)
def test_shapes_have_the_sizes_of_their_models(name, billions):
    assert round(parameters(read_shape(str(SHAPES / f"{name}.json"))) / 1e9, 3) == billions


@pytest.mark.parametrize("name", ["llama3_2_3b", "llama3_1_8b", "qwen2_5_7b"])
def test_all_are_legal_and_as_stated(name):
    full, decoder = pruned(name, 1700, 4600)
    found = legal_widths(full, decoder)
    assert len(found) > 1
    for width in found:
        assert width.hidden % math.lcm(128, full.num_heads) == 0
        assert width.intermediate % 128 == 0
        assert 0 < width.intermediate <= full.intermediate_size
        sizes = {"hidden_size": width.hidden, "intermediate_size": width.intermediate}
        assert width.parameters == parameters(dataclasses.replace(full, **sizes))
    # The MLP width is the best there is: a step to either side is worse.
    best, wanted = found[0], parameters(decoder)
    for other in (best.intermediate - 128, best.intermediate + 128):
        sizes = {"hidden_size": best.hidden, "intermediate_size": other}
        miss = abs(parameters(dataclasses.replace(full, **sizes)) - wanted)
        assert miss >= abs(best.parameters - wanted)
