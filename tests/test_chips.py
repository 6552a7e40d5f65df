"""Chips by name, and topologies that they have."""

from types import SimpleNamespace

import jax
import pytest

from overfill_jax.chips import CHIPS, find_chip, link_speed, local_chip, parse_topology
from overfill_jax.errors import InputError


def test_unknown_chips_are_told_the_nearest():
    with pytest.raises(InputError, match=r"plan.chip: found 'v5', did you mean 'v5.'"):
        find_chip("v5")
    with pytest.raises(InputError, match="did you mean 'h100'"):
        find_chip("H100-SXM")


@pytest.mark.parametrize(
    ("chip", "topology", "sizes"),
    [("v5e", "4x4", (4, 4)), ("v5p", "2x4x4", (2, 4, 4)), ("h100", "8", (8,))],
)
def test_topologies(chip, topology, sizes):
    assert parse_topology(CHIPS[chip], topology) == sizes


@pytest.mark.parametrize(
    ("chip", "topology"),
    [("v5e", "16"), ("v5p", "4x4"), ("v6e", "8x0"), ("h100", "2x2x2"), ("a100", "eight")],
)
def test_topologies_that_do_not_exist(chip, topology):
    with pytest.raises(InputError, match=f"plan.topology: found '{topology}', expected"):
        parse_topology(CHIPS[chip], topology)


def test_gpus_of_several_hosts_talk_over_the_network():
    chip = CHIPS["h100"]
    assert link_speed(chip, (8,)) == link_speed(chip, (1, 8)) == chip.links
    assert link_speed(chip, (2, 8)) == 8 * chip.network < chip.links
    assert link_speed(chip, (8, 2)) == 2 * chip.network
    assert link_speed(CHIPS["v5e"], (4, 4)) == CHIPS["v5e"].links


def test_the_chip_here_is_known_by_what_jax_calls_it(monkeypatch):
    def kinds(name):
        monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=name)])
        return local_chip()

    assert kinds("TPU v5 lite") == CHIPS["v5e"]
    assert kinds("TPU v5") == CHIPS["v5p"]
    assert kinds("NVIDIA H200") == CHIPS["h200"]
    assert kinds("NVIDIA A100-SXM4-80GB").bandwidth > kinds("NVIDIA A100-SXM4-40GB").bandwidth
    assert kinds("cpu") is None
