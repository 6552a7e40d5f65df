"""The reference's own numbers: importance, kept channels, pruned weights, released decoders."""

import dataclasses

import jax
import numpy as np
import pytest

from overfill_jax.model.size import parameters
from overfill_jax.pruning.choose import Kept, check_kept, choose
from overfill_jax.pruning.cut import cut, pruned_config
from overfill_jax.pruning.importance import CalibrationBatch, measure_importance
from overfill_jax.pruning.sizes import kept_sizes
from overfill_jax.weights.folders import load_model
from overfill_jax.weights.official_indices import load_indices
from tests.builders import CONFIG


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_golden_calibration(shared_data, family):
    golden = np.load(shared_data / "parity" / family / "golden.npz")
    full = load_model(shared_data / "parity" / family / "full")
    decoder = load_model(shared_data / "parity" / family / "decoder")
    tokens = golden["calibration"].astype(np.int32)
    every = np.ones(tokens.shape, bool)
    batch = CalibrationBatch(tokens, every, every)
    importance = measure_importance(full, [batch], "signed_mean", "l2")
    np.testing.assert_allclose(importance.hidden, golden["importance_hidden"], rtol=1e-4)
    np.testing.assert_allclose(
        importance.intermediate, golden["importance_intermediate"], rtol=1e-4
    )
    ratios = float(golden["width_hidden"]), float(golden["width_intermediate"])
    sizes = kept_sizes(full.config, *ratios, 1, 0.0, 0.0, 0.0, "importance")
    kept = choose(full.config, importance, sizes, "importance", "importance", 0)
    np.testing.assert_array_equal(kept.hidden, np.sort(golden["kept_hidden"]))
    np.testing.assert_array_equal(kept.intermediate, np.sort(golden["kept_intermediate"], axis=1))
    pruned = cut(full, kept)
    assert pruned.config == decoder.config
    jax.tree.map(np.testing.assert_array_equal, pruned.params, decoder.params)


@pytest.mark.parametrize(
    ("name", "shape", "widths", "billions"),
    [
        (
            "Llama-3.2-3B-Instruct-pruned-h0.45-i0.45-a0.0-d0.0.npz",
            {"hidden_size": 3072, "intermediate_size": 8192, "num_layers": 28, "num_heads": 24},
            (1689, 4505),
            1.243,
        ),
        (
            "Llama-3.1-8B-Instruct-pruned-h0.43-i0.43-a0.0-d0.0.npz",
            {
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_layers": 32,
                "num_heads": 32,
                "tied_embeddings": False,
            },
            (2334, 8171),
            None,
        ),
    ],
)
def test_released_indices_build_the_released_decoders(shared_data, name, shape, widths, billions):
    full = dataclasses.replace(
        CONFIG, vocab_size=128_256, num_kv_heads=8, head_dim=128, qkv_bias=False, qk_norm=False,
        **{"tied_embeddings": True, **shape},
    )  # fmt: skip
    hidden, intermediate = load_indices(shared_data / "official_indices" / name)
    kept = Kept(hidden, intermediate)
    check_kept(kept, full, name)
    assert (len(hidden), intermediate.shape[1]) == widths
    count = parameters(pruned_config(full, kept)) / 1e9
    print(f"{name}: {count:.3f}B parameters")
    assert billions is None or round(count, 3) == billions
