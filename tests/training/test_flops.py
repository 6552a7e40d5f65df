"""The formula against XLA's count of the real train step."""

import dataclasses

import jax
import pytest

from configs import default
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.flops import attention, logits, products
from overfill_jax.model.mesh import make_mesh
from overfill_jax.training.flops import StepFlops, step_flops
from overfill_jax.training.methods import choose_method
from overfill_jax.training.placement import abstract_inputs, compile_steps, make_placement
from overfill_jax.training.setup import make_setup
from overfill_jax.training.step import Setup
from tests.builders import CONFIG

# So wide that products outweigh all else. One layer, micro-batch and chunk: XLA counts the body
# of a loop once.
FULL = dataclasses.replace(
    CONFIG,
    vocab_size=1024,
    hidden_size=2048,
    intermediate_size=4096,
    num_layers=1,
    num_heads=8,
    head_dim=64,
    max_position=512,
    tied_embeddings=True,
    qkv_bias=False,
    attention="xla",
)
DECODER = dataclasses.replace(FULL, hidden_size=1024, intermediate_size=2048)
SHAPES = {"full": FULL, "decoder": DECODER}
ROWS, PROMPT, ANSWER = 4, 96, 128


def setup_of(
    method: str,
    freeze: str = "full",
    kl_weight: float = 0.0,
    remat: str = "full",
    handoffs: bool = False,
):
    train = default.get_config().train
    train.handoffs = handoffs
    train.kl_weight, train.loss_chunk, train.remat = kl_weight, ANSWER, remat
    chosen = choose_method(method, freeze, kl_weight, handoffs, lora_rank=0)
    names = {chosen.reader, chosen.writer} | ({"full"} if kl_weight else set())
    return make_setup(train, chosen, {name: SHAPES[name] for name in sorted(names)}, 1)


def formula(setup: Setup) -> StepFlops:
    return step_flops(setup, ROWS, (PROMPT, ANSWER))


def counted(setup: Setup) -> float:
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    placement = make_placement(setup, mesh)
    step, _ = compile_steps(setup, placement)
    with jax.set_mesh(mesh):
        inputs = abstract_inputs(setup, placement, ROWS, (PROMPT, ANSWER), "float32")
        program = step.lower(*inputs).compile()
    return program.cost_analysis()["flops"]


def unseen(config: ModelConfig, slots: int) -> float:
    """XLA's attention computes all pairs, seen or not."""
    return ROWS * attention(config, slots * (slots - 1) // 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("remat", "passes", "handoffs"),
    [
        pytest.param("none", 3, False, marks=pytest.mark.long),
        ("full", 4, False),
        ("none", 3, True),
    ],
)
def test_a_step_with_the_full_model_s_answers(remat, passes, handoffs):
    setup = setup_of("two_stage", kl_weight=0.5, remat=remat, handoffs=handoffs)
    extra = unseen(FULL, PROMPT) + unseen(FULL, ANSWER) + passes * unseen(DECODER, ANSWER)
    # Of the full model's entries and the decoder's own of an answer token one is seen.
    extra += handoffs * passes * ROWS * attention(DECODER, ANSWER * ANSWER)
    assert counted(setup) == pytest.approx(formula(setup).hardware + extra, rel=0.05)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", ["pruned", "full"])
def test_a_model_alone(method):
    setup = setup_of(method, remat="none")
    shape = dict(setup.configs)[setup.roles[0]]
    extra = 3 * (unseen(shape, PROMPT) + unseen(shape, ANSWER))
    assert counted(setup) == pytest.approx(formula(setup).hardware + extra, rel=0.05)


@pytest.mark.usefixtures("unchecked")
def test_the_full_model_s_last_layer_only_leaves_keys_and_values():
    """Without a divergence nobody reads its output, and XLA drops it; here it is the only one."""
    setup = setup_of("two_stage")
    flops = formula(setup)
    keys = 2.0 * PROMPT * FULL.hidden_size * 2 * FULL.num_kv_heads * FULL.head_dim
    expected = flops.hardware - flops.frozen + ROWS * keys
    assert counted(setup) == pytest.approx(expected, rel=0.05)


def test_layers_rows_and_backward_passes_add_up():
    one = formula(setup_of("two_stage", remat="none"))
    assert one.backward == 2 * one.forward
    assert one.recomputed == 0
    again = formula(setup_of("two_stage", remat="full"))
    assert again.model == one.model
    last = ROWS * 2.0 * ANSWER * DECODER.intermediate_size * DECODER.hidden_size
    layers = one.forward - ROWS * logits(DECODER, ANSWER)
    assert again.recomputed == layers - last
    joint = formula(setup_of("two_stage", freeze="none", remat="none"))
    assert (joint.frozen, joint.forward) == (0, one.forward + one.frozen)
    twice = dataclasses.replace(FULL, num_layers=2)
    assert products(twice, PROMPT) == 2 * products(FULL, PROMPT)
    assert attention(twice, 10) == 2 * attention(FULL, 10)
