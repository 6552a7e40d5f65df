"""What a config says about a step, and what it must not say."""

import pytest

from overfill_jax.errors import InputError
from overfill_jax.planning.workload import read_shape, read_workload
from overfill_jax.two_stage import check_handoff
from tests.builders import CONFIG


def test_the_shapes_come_from_the_file_and_from_prune(config):
    work = read_workload(config, 16)
    assert (work.full.hidden_size, work.full.num_layers) == (CONFIG.hidden_size, 3)
    assert (work.decoder.hidden_size, work.decoder.intermediate_size) == (16, 32)
    assert work.decoder.dtype == "bfloat16"
    assert dict(work.mesh.shape) == {"data": 1, "fsdp": 16, "tensor": 1}


def test_ratios_are_read_as_pruning_reads_them(config):
    config.prune.hidden = 0.45
    config.prune.multiple_of = 4
    assert read_workload(config, 16).decoder.hidden_size == 12


def test_fewer_heads_and_layers_are_planned_for(config):
    whole = read_workload(config, 16)
    config.prune.update({"heads": 0.5, "kv_heads": 0.5, "depth": 0.0, "layers": "1,2"})
    work = read_workload(config, 16)
    decoder = work.decoder
    assert (decoder.num_layers, decoder.num_kv_heads, decoder.num_heads) == (2, 1, 1)
    check_handoff(work.full, decoder)
    assert work.flops.forward < whole.flops.forward
    assert work.flops.frozen == whole.flops.frozen


def test_slots(config):
    work = read_workload(config, 16)
    assert (work.prompt_slots, work.answer_slots) == (1024, 1024)
    config.plan.prompt_share = 0.26
    assert read_workload(config, 16).prompt_slots == 512
    config.train.packing, config.train.prompt_slots = True, 640
    assert read_workload(config, 16).answer_slots == 2048 - 640
    config.train.prompt_slots = 2048
    with pytest.raises(InputError, match=r"train\.sequence_length: found 2048, of which 2048 for"):
        read_workload(config, 16)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mesh.tensor", 3, "mesh: found data 1, fsdp -1, tensor 3, which does not fit the 16"),
        ("mesh.fsdp", 8, "which does not fit the 16 chips"),
        ("mesh.data", -1, "mesh: found data -1, fsdp -1"),
        ("mesh.data", 0, "mesh: found data 0"),
        ("train.batch_size", 24, "train.batch_size: found 24, expected a multiple of 16"),
        ("train.accumulation", 2, "expected a multiple of 32"),
        ("train.accumulation", 0, "at least 1"),
        ("train.prompt_slots", 640, "train.prompt_slots: found 640 without train.packing"),
        ("train.method", "full", "train.method: found 'full'"),
        ("plan.prompt_share", 1.0, "plan.prompt_share: found 1"),
        ("plan.model", "", "plan.model: found nothing"),
        ("plan.model", "nowhere.json", "nowhere.json: no such file"),
        ("prune.hidden", 25, "prune.hidden: found width 25"),
        ("prune.depth", 4, "prune.depth: found width 4"),
    ],
)
def test_bad_input(config, key, value, message):
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(InputError, match=message):
        read_workload(config, 16)


def test_a_shape_that_is_no_object_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('["model_type"]')
    with pytest.raises(InputError, match=r"config\.json: found a JSON list, expected an object"):
        read_shape(str(tmp_path))
