"""Every implementation of attention against the reference; the choice between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from overfill_jax.errors import InputError
from overfill_jax.model import attention as attention_module
from overfill_jax.model import attention_cudnn, attention_splash, attention_xla
from overfill_jax.model.attention import attention, choose
from overfill_jax.two_stage import extend_hidden, prefill_hidden
from overfill_jax.weights.folders import fingerprint, load_model, save_model
from tests.builders import make_model, random_model

# T, offset, N, K, H: every group size from 1 to 4, whole blocks and not, head_dim 128 and less.
SHAPES = (
    (256, 0, 2, 2, 16),
    (128, 128, 4, 2, 128),
    (70, 0, 4, 1, 16),
    (130, 75, 3, 1, 8),
    (40, 300, 8, 2, 16),
    (1000, 600, 4, 2, 16),
)


@pytest.fixture
def gpu(monkeypatch):
    """A platform that says it is an H100."""

    class Device:
        compute_capability = "9.0"
        platform_version = "PJRT C API\ncuda 12080"

    monkeypatch.setattr(attention_cudnn, "get_backend", Device)
    monkeypatch.setattr(attention_cudnn.jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(attention_module, "platform", lambda: "gpu")
    return Device


def segments(rng, rows: int, slots: int) -> np.ndarray:
    """Three packed examples a row, with padding between and behind; one row is all padding."""
    ends = np.sort(rng.integers(0, slots + 1, (rows, 3)), axis=1)
    owner = 1 + np.sum(np.arange(slots)[None, :, None] >= ends[:, None, :], axis=2)
    owner[rng.random(owner.shape) < 0.1] = 0
    owner[-1] = 0
    return np.where(owner > 3, 0, owner).astype(np.int32)


def make_arrays(shape, dtype="float32", rows: int = 3):
    length, offset, heads, kv_heads, head_dim = shape
    rng = np.random.default_rng(sum(shape))
    slots = offset + length
    sizes = (rows, length, heads), (rows, slots, kv_heads), (rows, slots, kv_heads)
    query, key, value = (
        jnp.asarray(rng.normal(size=(*size, head_dim)), dtype=dtype) for size in sizes
    )
    answers = segments(rng, rows, length)
    owners = np.concatenate([segments(rng, rows, offset), answers], axis=1)
    return query, key, value, jnp.asarray(answers), jnp.asarray(owners)


def with_gradients(implementation, arrays, offset):
    """Output, and what padding must not add to: the gradients of a loss over real tokens."""
    query, key, value, answers, owners = arrays
    weights = np.random.default_rng(1).normal(size=query.shape) * (answers > 0)[..., None, None]

    def loss(query, key, value):
        mixed = attention(query, key, value, answers, owners, offset, implementation)
        return jnp.sum(mixed.astype(jnp.float32) * weights), mixed

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    gradients, mixed = run(query, key, value)
    return mixed, gradients


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_splash_equals_the_reference(tpu, shape):
    arrays = make_arrays(shape)
    mixed, gradients = with_gradients("splash", arrays, shape[1])
    expected, expected_gradients = with_gradients("xla", arrays, shape[1])
    np.testing.assert_allclose(mixed, expected, atol=5e-6)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_splash_in_bfloat16_is_as_near_to_float32_as_the_reference(tpu):
    shape = (128, 128, 4, 2, 128)
    exact, exact_gradients = with_gradients("xla", make_arrays(shape), shape[1])
    arrays = make_arrays(shape, "bfloat16")
    mixed, gradients = with_gradients("splash", arrays, shape[1])
    expected, expected_gradients = with_gradients("xla", arrays, shape[1])
    assert mixed.dtype == expected.dtype == jnp.bfloat16

    def distance(found, exact):
        return float(jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact))

    kernels, references = (mixed, *gradients), (expected, *expected_gradients)
    truths = (exact, *exact_gradients)
    for kernel, reference, truth in zip(kernels, references, truths, strict=True):
        assert distance(kernel, truth) < 1.5 * distance(reference, truth) < 0.02


@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_padding_is_finite_and_adds_nothing(tpu, implementation):
    shape = (130, 75, 3, 1, 8)
    arrays = make_arrays(shape)
    query, key, value, answers, owners = arrays
    shout = [
        jnp.where((of > 0)[..., None, None], array, 1e6)
        for array, of in ((query, answers), (key, owners), (value, owners))
    ]
    mixed, gradients = with_gradients(implementation, arrays, shape[1])
    loud, loud_gradients = with_gradients(implementation, (*shout, answers, owners), shape[1])
    assert np.all(np.isfinite(loud))
    np.testing.assert_array_equal(mixed[answers > 0], loud[answers > 0])
    for found, other, of in zip(gradients, loud_gradients, (answers, owners, owners), strict=True):
        np.testing.assert_array_equal(found, other)
        assert not np.any(found[of == 0])


@pytest.mark.parametrize("implementation", ["xla", "splash", "cudnn"])
def test_a_prompt_needs_no_segments(tpu, monkeypatch, implementation):
    """Padded on the right alone; the kernels then have nothing but causality to look at."""
    on_gpu, asked = jax.nn.dot_product_attention, []

    def on_cpu(*arrays, implementation, **others):
        asked.append(others)
        return on_gpu(*arrays, implementation="xla", **others)

    monkeypatch.setattr(attention_cudnn.jax.nn, "dot_product_attention", on_cpu)
    monkeypatch.setattr(attention_cudnn, "obstacle", lambda *_: None)
    query, key, value, *_ = make_arrays((70, 0, 4, 2, 16))
    real = np.arange(70) < np.array([70, 41, 1])[:, None]
    owners = jnp.asarray(real, jnp.int32)
    mixed = attention(query, key, value, None, None, 0, implementation)
    expected = attention(query, key, value, owners, owners, 0, "xla")
    assert np.all(np.isfinite(mixed))
    np.testing.assert_allclose(mixed[real], expected[real], atol=5e-6)
    assert asked == [{"is_causal": True}] * (implementation == "cudnn")
    with pytest.raises(ValueError, match="whole sequences from slot 0 on"):
        attention(query, key, value, None, None, 1, implementation)


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        (1, (128, 127)),
        (128, (128, 0)),
        (200, (256, 56)),
        (400, (512, 112)),
        (1024, (512, 0)),
        (2100, (256, 204)),
        (640, (128, 0)),
    ],
)
def test_blocks_divide_what_they_pad(slots, expected):
    assert attention_splash.block(slots) == expected


def hidden_after_prompt(model, remat):
    """Two packed examples a row, read in two stages, as training does."""
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, 41, (2, 19)))
    owners = jnp.asarray([[1] * 5 + [2] * 4 + [0] * 3] * 2, jnp.int32)
    answers = jnp.asarray([[0, 1, 1, 0, 2, 2, 0]] * 2, jnp.int32)
    positions = jnp.asarray([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]] * 2)
    _, cache = prefill_hidden(model, tokens[:, :12], owners, positions, 7, remat)
    places = jnp.asarray([[4, 5, 6, 3, 4, 5, 6]] * 2)
    hidden, _ = extend_hidden(model, tokens[:, 12:], answers, places, cache, remat)
    return hidden * (answers > 0)[..., None]


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.long
def test_training_runs_the_kernel_in_both_stages(tpu, remat):
    outcomes = {}
    for name in ("splash", "xla"):
        model = make_model(attention=name)
        program = jax.value_and_grad(
            lambda model: jnp.sum(jnp.sin(hidden_after_prompt(model, remat)))
        )
        outcomes[name] = jax.jit(program)(model)
        forward = jax.make_jaxpr(lambda model: hidden_after_prompt(model, remat))(model)
        assert str(forward).count("name=splash_mha") == 2 * (name == "splash")
    (loss, gradients), (expected, expected_gradients) = outcomes.values()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    leaves = zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True)
    for found, wanted in leaves:
        np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=1e-4)


def spans_of(arrays):
    """The last segment that sees each slot: its own, or a later one."""
    owners = arrays[-1]
    longer = np.random.default_rng(2).integers(0, 3, owners.shape)
    return jnp.where(owners > 0, owners + longer, 0).astype(jnp.int32)


def test_a_slot_is_seen_by_a_span_of_segments():
    arrays, offset = make_arrays((6, 5, 2, 1, 4)), 5
    answers, owners, until = (np.asarray(x) for x in (*arrays[3:], spans_of(arrays)))
    seen = attention_xla.visible(*arrays[3:], offset, spans_of(arrays))
    for row, token, slot in np.ndindex(seen.shape):
        inside = owners[row, slot] <= answers[row, token] <= until[row, slot]
        assert seen[row, token, slot] == (slot <= offset + token and inside)
    alone = attention_xla.visible(*arrays[3:], offset)
    assert (alone <= seen).all() and (alone != seen).any()
    np.testing.assert_array_equal(attention_xla.visible(*arrays[3:], offset, arrays[4]), alone)


def chosen(implementation, dtype="bfloat16", shape=(64, 64, 4, 2, 128), offset=None, spans=False):
    arrays = make_arrays(shape, dtype)
    until = spans_of(arrays) if spans else None
    return choose(implementation, *arrays[:2], shape[1] if offset is None else offset, until)


def test_splash_shows_slots_to_single_segments(tpu):
    assert chosen("auto", spans=True) == "xla"
    with pytest.raises(InputError, match=r"which shows .* found spans .*train\.handoffs"):
        chosen("splash", spans=True)


def test_cudnn_takes_spans_of_segments(gpu):
    assert chosen("auto", spans=True) == chosen("cudnn", spans=True) == "cudnn"


def test_the_reference_computes_on_a_cpu():
    assert chosen("auto") == chosen("xla") == "xla"


@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_a_kernel_that_cannot_run_is_refused_by_name(name):
    with pytest.raises(InputError, match=f"attention is '{name}', which needs .*; found cpu"):
        chosen(name)


@pytest.mark.parametrize("name", ["auto", "splash"])
def test_a_tpu_runs_splash_but_for_decoding(tpu, name):
    assert chosen(name) == "splash"
    assert chosen(name, shape=(1, 64, 4, 2, 128)) == "xla"
    assert chosen(name, offset=jnp.asarray(64)) == "xla"
    assert chosen("xla") == "xla"


@pytest.mark.parametrize("name", ["auto", "cudnn"])
def test_a_gpu_runs_cudnn_but_for_decoding(gpu, name):
    assert chosen(name) == chosen(name, "float16") == "cudnn"
    assert chosen(name, shape=(1, 63, 4, 2, 128)) == "xla"
    assert chosen(name, offset=jnp.asarray(64)) == "xla"


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"dtype": "float32"}, "bfloat16 or float16; found float32"),
        ({"shape": (64, 64, 4, 2, 256)}, "head_dim up to 128, a multiple of 8; found 256"),
        ({"shape": (63, 64, 4, 2, 64)}, "even numbers of slots; found 63 over 127"),
    ],
    ids=["dtype", "head_dim", "odd"],
)
def test_what_cudnn_cannot_do_is_said(gpu, monkeypatch, case, reason):
    with pytest.raises(InputError, match=f"attention is 'cudnn', which .*{reason}"):
        chosen("cudnn", **case)
    said = []
    attention_module._log_once.cache_clear()
    monkeypatch.setattr(logging, "info", lambda form, *values: said.append(form % values))
    assert chosen("auto", **case) == chosen("auto", **case) == "xla"
    assert len(said) == 1 and reason in said[0]


def test_old_and_other_gpus_run_the_reference(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "compute_capability", "7.5")
    assert chosen("auto") == "xla"
    with pytest.raises(InputError, match=r"8\.0 or more; found 7\.5"):
        chosen("cudnn")
    monkeypatch.setattr(gpu, "platform_version", "rocm 6.2")
    with pytest.raises(InputError, match="NVIDIA"):
        chosen("cudnn")


@pytest.mark.parametrize("shape", SHAPES[2:5], ids=str)
def test_cudnn_is_given_what_is_visible(monkeypatch, shape):
    """The kernel itself needs a GPU; its arguments, computed by XLA, give the reference."""
    on_gpu = jax.nn.dot_product_attention
    asked = []

    def on_cpu(*arrays, implementation, **others):
        asked.append(implementation)
        return on_gpu(*arrays, implementation="xla", **others)

    monkeypatch.setattr(attention_cudnn.jax.nn, "dot_product_attention", on_cpu)
    arrays = make_arrays(shape)
    for until in (None, spans_of(arrays)):
        mixed = attention_cudnn.attend(*arrays, shape[1], until)
        expected = attention_xla.attend(*arrays, shape[1], until)
        np.testing.assert_allclose(mixed, expected, atol=5e-6)
    assert asked == ["cudnn"] * 2


def test_an_unknown_implementation_is_refused():
    with pytest.raises(InputError, match="'flash', expected one of auto, xla, splash, cudnn"):
        make_model(attention="flash")


def test_who_computes_is_no_property_of_the_model(tmp_path):
    model, forced = random_model(), random_model(attention="xla")
    assert fingerprint(model) == fingerprint(forced)
    save_model(tmp_path / "model", forced, None)
    assert 'attention"' not in (tmp_path / "model" / "config.json").read_text()
    assert load_model(tmp_path / "model").config == model.config
