"""Bytes and FLOPs of a pass, counted by hand; its seconds, against what others have measured."""

import dataclasses

import jax
import pytest

from overfill_jax.chips import CHIPS
from overfill_jax.model import flops
from overfill_jax.model.quantised import Scheme, quantise_model, stored_bytes
from overfill_jax.model.size import decode_bytes, parameters
from overfill_jax.model.transformer import Model
from overfill_jax.planning.efficiency import REACHED
from overfill_jax.planning.passes import Machine, load, packed_bytes, pass_seconds
from overfill_jax.planning.workload import read_shape
from tests.builders import CONFIG, make_model
from tests.conftest import REPOSITORY


def shape(name: str, **changes):
    read = read_shape(str(REPOSITORY / "configs" / "shapes" / f"{name}.json"))
    return dataclasses.replace(read, dtype="bfloat16", **changes)


FULL = {name: shape(name) for name in ("llama3_2_3b", "llama3_1_8b")}
DECODER = {
    "llama3_2_3b": shape("llama3_2_3b", hidden_size=1689, intermediate_size=4505),
    "llama3_1_8b": shape("llama3_1_8b", hidden_size=2334, intermediate_size=8171),
}
SMALL = {"hidden_size": 4096, "intermediate_size": 11008, "num_kv_heads": 32, "vocab_size": 32000}
LARGE = {"hidden_size": 8192, "intermediate_size": 28672, "num_layers": 80, "num_heads": 64}
PUBLISHED = {
    "8B": FULL["llama3_1_8b"],
    "7B": shape("llama3_1_8b", **SMALL),
    "70B": shape("llama3_1_8b", **LARGE),
}


@pytest.mark.parametrize("config", [FULL["llama3_1_8b"], DECODER["llama3_2_3b"], CONFIG])
def test_a_token_reads_and_multiplies_what_the_formulas_say(config):
    model = load(config, "bfloat16", "bfloat16", 1)
    row = 0 if config.tied_embeddings else 2 * config.hidden_size  # of the embedding
    assert model.layers + model.table + row == decode_bytes(config, "bfloat16", 0)
    assert model.stored == 2 * parameters(config)
    more = decode_bytes(config, "bfloat16", 7) - decode_bytes(config, "bfloat16", 0)
    assert 7 * model.cached == more
    assert (model.products, model.logits) == (flops.products(config, 1), flops.logits(config, 1))
    assert model.pair == flops.attention(config, 1)


@pytest.mark.parametrize(
    ("name", "full", "decoder", "limit"),
    [("llama3_2_3b", 1.34, 0.52, 2.58), ("llama3_1_8b", 3.13, 1.21, 2.59)],
)
def test_floors_of_an_h200(name, full, decoder, limit):
    """Milliseconds in which 4.8 TB/s read the weights."""
    machine = Machine(CHIPS["h200"], 1, REACHED["h200"]).perfect
    models = [load(c[name], "bfloat16", "bfloat16", 1) for c in (FULL, DECODER)]
    floors = [1e3 * pass_seconds(model, machine, 1, 1, 0, True) for model in models]
    assert floors == [pytest.approx(full, abs=5e-3), pytest.approx(decoder, abs=5e-3)]
    assert floors[0] / floors[1] == pytest.approx(limit, abs=5e-3)


@pytest.mark.parametrize(
    ("name", "weights", "chip", "chips", "batch", "rate"),
    [
        ("8B", "bfloat16", "a100", 1, 1, 93.83),  # gpt-fast: a few hundred tokens, batch 1
        ("8B", "bfloat16", "a100", 2, 1, 149.10),
        ("8B", "bfloat16", "a100", 4, 1, 217.21),
        ("8B", "bfloat16", "a100", 8, 1, 276.01),
        ("8B", "int8", "a100", 1, 1, 137.64),
        ("7B", "bfloat16", "a100", 1, 1, 104.9),
        ("7B", "bfloat16", "a100", 8, 1, 328.43),
        ("7B", "int8", "a100", 1, 1, 155.58),
        ("7B", "int4", "a100", 1, 1, 196.80),
        ("70B", "int8", "v5e", 8, 8, 84.4),  # jax-llm-examples
    ],
)
def test_within_a_tenth_of_what_others_measured(name, weights, chip, chips, batch, rate):
    model = load(PUBLISHED[name], weights, "bfloat16", chips)
    machine = Machine(CHIPS[chip], chips, REACHED[chip])
    seconds = pass_seconds(model, machine, batch, 1, 200, True)
    assert 1 / seconds == pytest.approx(rate, rel=0.1)


def test_packed_bytes():
    assert packed_bytes(300, 7, "bfloat16") == 2 * 300 * 7
    assert packed_bytes(300, 7, "int8") == 300 * 7 + 7 * 2
    assert packed_bytes(300, 7, "int4") == 300 * 7 / 2 + 3 * 7 * 2  # groups of 128, 128 and 44


def test_norms_and_the_embedding_stay_wide():
    config = dataclasses.replace(CONFIG, qk_norm=False, qkv_bias=False)
    wide, narrow = (load(config, weights, "bfloat16", 1) for weights in ("bfloat16", "int8"))
    norms = 2 * (2 * config.num_layers + 1) * config.hidden_size
    outputs = (4 + 2 * 2) * 8 + config.hidden_size + 2 * 40 + config.hidden_size
    halved = (wide.layers - norms) / 2 + 2 * config.num_layers * outputs
    assert narrow.layers == norms + halved
    embedding = 2 * config.vocab_size * config.hidden_size
    assert narrow.stored == narrow.layers + narrow.table + embedding


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_stored_is_what_quantised_models_store(tied):
    model = make_model(tied_embeddings=tied, dtype="bfloat16")
    model = Model(model.config, jax.tree.map(lambda x: x.astype("bfloat16"), model.params))
    found = load(model.config, "int8", "bfloat16", 1).stored
    assert found == stored_bytes(quantise_model(model, Scheme(8, 0)).params)


def test_an_int8_cache_has_a_scale_for_every_head():
    model = load(CONFIG, "bfloat16", "int8", 1)
    assert model.cached == 2 * CONFIG.num_layers * CONFIG.num_kv_heads * (CONFIG.head_dim + 2)


def test_chips_share_what_they_divide():
    whole, half = (load(FULL["llama3_2_3b"], "bfloat16", "bfloat16", n) for n in (1, 2))
    assert half.cached == whole.cached / 2
    assert half.products == whole.products / 2
    assert half.stored == pytest.approx(whole.stored / 2, rel=1e-3)  # all but the norms
    assert (whole.sums, half.sums, half.whole) == (0, 2 * 28 + 1, ())
    odd = load(DECODER["llama3_2_3b"], "bfloat16", "bfloat16", 2)
    assert (odd.whole, odd.sums) == (("intermediate_size 4505",), 28 + 1)


def test_the_longer_of_bytes_and_flops_decides():
    machine = Machine(CHIPS["h200"], 1, REACHED["h200"]).perfect
    model = load(FULL["llama3_2_3b"], "bfloat16", "bfloat16", 1)
    few = [pass_seconds(model, machine, 1, tokens, 0, False) for tokens in (1, 64)]
    assert few == [pytest.approx(model.layers / 4.8e12)] * 2
    many = pass_seconds(model, machine, 8, 1024, 1024, True)
    pairs = 8 * 1024 * 1025 // 2
    work = flops.products(model.part, 8 * 1024) + flops.attention(model.part, pairs)
    expected = work / 989e12 + model.table / 4.8e12  # eight rows of logits: bytes
    assert many == pytest.approx(expected)


def test_every_chip_has_assumptions_that_are_possible():
    assert REACHED.keys() == CHIPS.keys()
    for reached in REACHED.values():
        shares = [reached.products, reached.attention, reached.cache, *reached.weights.values()]
        assert all(0 < share < 1 for share in shares)
