"""Golden outputs that were proven equal to the reference code, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax.model.transformer import hidden_states, unembed
from overfill_jax.two_stage import extend, handoff, prefill
from overfill_jax.weights.folders import load_model

PREFILL = jax.jit(prefill, static_argnums=3)
EXTEND = jax.jit(extend)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def parity(request, shared_data):
    """Full model, decoder and golden arrays."""
    folder = shared_data / "parity" / request.param
    with np.load(folder / "golden.npz") as arrays:
        golden = {name: jnp.asarray(arrays[name]) for name in arrays}
    return load_model(folder / "full"), load_model(folder / "decoder"), golden


def two_stage(full, decoder, prompts, lengths, responses):
    """First logits of the full model, logits of the decoder on the response."""
    first, cache = PREFILL(full, prompts, lengths, responses.shape[1])
    cache = handoff(cache, full.config, decoder.config, "full")
    return first, EXTEND(decoder, responses, cache)[0]


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["full", "decoder"])
def test_each_model_alone(parity, name):
    full, decoder, golden = parity
    model, tokens = {"full": full, "decoder": decoder}[name], golden["calibration"]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _, _ = jax.jit(hidden_states)(model, tokens, positions, jnp.ones_like(tokens))
    close(unembed(model, hidden), golden[f"{name}_logits"])


def test_two_stages_of_ragged_prompts(parity):
    full, decoder, golden = parity
    first, logits = two_stage(
        full, decoder, golden["prompts"], golden["prompt_lengths"], golden["responses"]
    )
    close(first, golden["first_logits"])
    close(logits, golden["two_stage_logits"])


def test_ragged_rows_equal_rows_alone(parity):
    full, decoder, golden = parity
    together = two_stage(
        full, decoder, golden["prompts"], golden["prompt_lengths"], golden["responses"]
    )
    for row in range(len(golden["prompts"])):
        one = slice(row, row + 1)
        inputs = (golden[name][one] for name in ("prompts", "prompt_lengths", "responses"))
        alone = two_stage(full, decoder, *inputs)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_allclose(ours[0], theirs[row], atol=5e-5, rtol=0)


def test_two_stage_loss(parity):
    full, decoder, golden = parity
    responses = golden["responses"]
    _, logits = two_stage(full, decoder, golden["prompts"], golden["prompt_lengths"], responses)
    log_probabilities = jax.nn.log_softmax(logits[:, :-1])
    chosen = jnp.take_along_axis(log_probabilities, responses[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(-chosen.mean(axis=1), golden["two_stage_loss"], atol=1e-4, rtol=0)


def test_greedy_tokens(parity):
    full, decoder, golden = parity
    steps = golden["greedy"].shape[1]
    logits, cache = PREFILL(full, golden["prompts"], golden["prompt_lengths"], steps)
    cache = handoff(cache, full.config, decoder.config, "full")
    tokens = [jnp.argmax(logits, axis=-1)]
    for _ in range(steps - 1):
        logits, cache = EXTEND(decoder, tokens[-1][:, None], cache)
        tokens.append(jnp.argmax(logits[:, 0], axis=-1))
    np.testing.assert_array_equal(jnp.stack(tokens, axis=1), golden["greedy"])
