"""The formula against XLA's count of the real train step."""

import dataclasses

import jax
import pytest
from jax.sharding import AbstractMesh

from configs import default
from overfill_jax.model.config import ModelConfig, Rope
from overfill_jax.model.mesh import AXES, make_mesh
from overfill_jax.planning.compiled import abstract_setup, abstract_step_inputs
from overfill_jax.planning.flops import attention, products
from overfill_jax.planning.workload import Workload
from overfill_jax.training.placement import compile_steps, make_placement

# So wide that products outweigh all else. One layer, micro-batch and chunk: XLA counts the body
# of a loop once.
FULL = ModelConfig(
    model_type="llama",
    vocab_size=1024,
    hidden_size=2048,
    intermediate_size=4096,
    num_layers=1,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    rope=Rope(10_000.0),
    norm_epsilon=1e-5,
    max_position=512,
    tied_embeddings=True,
    qkv_bias=False,
    qk_norm=False,
    attention="xla",
)
DECODER = dataclasses.replace(FULL, hidden_size=1024, intermediate_size=2048)
PROMPT, ANSWER = 96, 128


def workload(remat: str, divergence: bool) -> Workload:
    return Workload(
        full=FULL,
        decoder=DECODER,
        rows=4,
        prompt_slots=PROMPT,
        answer_slots=ANSWER,
        accumulation=1,
        remat=remat,
        loss_chunk=ANSWER,
        divergence=divergence,
        frozen_dtype="float32",
        mesh=AbstractMesh((1, 1, 1), AXES),
    )


def counted(work: Workload) -> float:
    train = default.get_config().train
    train.kl_weight = float(work.divergence)
    setup = abstract_setup(train, work)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    placement = make_placement(setup, mesh)
    step, _ = compile_steps(setup, placement)
    with jax.set_mesh(mesh):
        program = step.lower(*abstract_step_inputs(setup, placement, work)).compile()
    return program.cost_analysis()["flops"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_step_with_the_full_model_s_answers(remat):
    work = workload(remat, divergence=True)
    # XLA's attention computes all pairs, seen or not.
    unseen = {length: length * (length - 1) // 2 for length in (PROMPT, ANSWER)}
    passes = 4 if remat == "full" else 3
    extra = sum(attention(FULL, pairs) for pairs in unseen.values())
    extra += passes * attention(DECODER, unseen[ANSWER])
    expected = work.flops.hardware + work.rows * extra
    assert counted(work) == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("unchecked")
def test_the_full_model_s_last_layer_only_leaves_keys_and_values():
    """Without a divergence nobody reads its output, and XLA drops it; here it is the only one."""
    work = workload("full", divergence=False)
    flops = work.flops
    keys = 2.0 * PROMPT * FULL.hidden_size * 2 * FULL.num_kv_heads * FULL.head_dim
    expected = flops.hardware - flops.full + work.rows * keys
    assert counted(work) == pytest.approx(expected, rel=0.05)


def test_layers_rows_and_backward_passes_add_up():
    one = workload("none", divergence=False).flops
    assert one.decoder_backward == 2 * one.decoder_forward
    # The decoder's logits are computed again in any case, its layers only if told to.
    assert one.recomputed == 4 * 2.0 * ANSWER * DECODER.hidden_size * DECODER.vocab_size
    full = workload("full", divergence=False).flops
    assert full.model == one.model
    assert full.recomputed == one.decoder_forward
    twice = dataclasses.replace(FULL, num_layers=2)
    assert products(twice, PROMPT) == 2 * products(FULL, PROMPT)
    assert attention(twice, 10) == 2 * attention(FULL, 10)
