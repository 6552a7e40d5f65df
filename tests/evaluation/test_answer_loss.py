import numpy as np
import pytest

from overfill_jax.evaluation.answer_loss import Loss, answer_loss


def test_losses_by_hand():
    likelihoods = np.array([[-1.0, -2.0, -3.0, 9.0], [-5.0, np.nan, 9.0, 9.0]])
    found = answer_loss(likelihoods, np.array([3, 1]), ["sum", "sort"])
    assert found.total == Loss(11 / 4, tokens=4)  # tokens count the same, not rows
    assert found.families == {"sum": Loss(2.0, tokens=3), "sort": Loss(5.0, tokens=1)}
    assert found.positions == [Loss(3.0, tokens=2), Loss(2.0, tokens=1), Loss(3.0, tokens=1)]


def test_positions_and_families_make_up_the_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 20)
    families = [str(row % 3) for row in range(20)]
    found = answer_loss(-rng.random((20, 12)).astype(np.float32), lengths, families)
    assert len(found.positions) == lengths.max()
    for parts in (found.positions, found.families.values()):
        assert sum(part.tokens for part in parts) == found.total.tokens == lengths.sum()
        whole = sum(part.loss * part.tokens for part in parts)
        assert whole == pytest.approx(found.total.loss * found.total.tokens)
