"""What chips say to each other, counted by hand; axes that the mesh does not divide included."""

import pytest

from overfill_jax.model.size import parameters
from overfill_jax.planning.duration import received_bytes
from tests.planning.builders import workload

# The full model's width is 3072.
LAYERS, SLOTS = 28, 1024


@pytest.mark.parametrize(
    ("mesh", "widths", "gathers", "sums", "lookups"),
    [
        ((1, 16, 1), (1536, 5376), 15 / 16, 15 / 16, 0),
        # Every chip holds the whole decoder: it is never gathered, and its gradients are sent
        # twice, once to be summed and once as sums.
        ((1, 16, 1), (1689, 4505), 0, 2 * 15 / 16, 2 * 15 / 16),
        ((16, 1, 1), (1536, 5376), 0, 2 * 15 / 16, 2 * 15 / 16),
        # First within a block, then an eighth of them between the blocks.
        ((2, 8, 1), (1536, 5376), 7 / 8, 7 / 8 + 2 / 8 / 2, 2 / 8 / 2),
    ],
)
def test_weights_and_gradients(mesh, widths, gathers, sums, lookups):
    work = workload(mesh=mesh, widths=widths)
    full, decoder = (c.vocab_size * c.hidden_size for c in (work.full, work.decoder))
    layers = parameters(work.decoder) - decoder
    frozen = (parameters(work.full) - full) * (1 - 1 / mesh[1])
    expected = 2 * frozen + gathers * 2 * (2 * layers + decoder)
    expected += sums * (2 * layers + 4 * decoder) + lookups * 2 * decoder
    assert received_bytes(work) == pytest.approx(expected, rel=1e-9)
    twice = workload(mesh=mesh, widths=widths, accumulation=2)
    assert received_bytes(twice) == pytest.approx(2 * expected, rel=1e-9)
    divergence = workload(mesh=mesh, widths=widths, kl_weight=1.0)
    more = 2 * full * (1 - 1 / mesh[1])
    assert received_bytes(divergence) == pytest.approx(expected + more, rel=1e-9)


@pytest.mark.parametrize(
    ("inner", "remat", "decoder_sums"),
    [(5376, "full", 6), (5376, "none", 4), (5377, "full", 3), (5377, "dots", 2)],
)
def test_streams_are_summed_behind_what_the_tensor_axis_splits(inner, remat, decoder_sums):
    """The heads always, and the MLP where its width is a multiple of 4."""
    work = workload(mesh=(1, 1, 4), widths=(1536, inner), remat=remat)
    streams = LAYERS * SLOTS * (2 * 3072 + decoder_sums * 1536)
    expected = 32 * 2 * streams * 2 * 3 / 4
    assert received_bytes(work) == pytest.approx(expected, rel=1e-9)
