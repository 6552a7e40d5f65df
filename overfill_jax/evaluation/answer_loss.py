"""Answer loss from log-likelihoods: nats per token, over all, by family and by answer position."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Loss:
    """Mean negative log-likelihood in nats, and the number of tokens that it is the mean of."""

    loss: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class AnswerLoss:
    """The loss of one system on the reference answers; every token counts the same.

    Attributes:
      total: over all tokens.
      families: over the tokens of each family.
      positions: over the tokens at each place of the answer; the first entry is answer token 1.
    """

    total: Loss
    families: dict[str, Loss]
    positions: list[Loss]


def answer_loss(
    log_likelihoods: Float[np.ndarray, "rows R"],
    lengths: Int[np.ndarray, "rows"],
    families: Sequence[str],
) -> AnswerLoss:
    """Sums up the log-likelihoods of the answers' tokens; what lies beyond a length is not read."""
    valid = np.arange(log_likelihoods.shape[1]) < lengths[:, None]
    losses = -np.where(valid, log_likelihoods, 0.0).astype(np.float64)
    tags = np.asarray(families)
    return AnswerLoss(
        total=_mean(losses, valid),
        families={f: _mean(losses[tags == f], valid[tags == f]) for f in dict.fromkeys(families)},
        positions=[_mean(losses[:, r], valid[:, r]) for r in range(int(lengths.max()))],
    )


def _mean(losses: np.ndarray, valid: np.ndarray) -> Loss:
    tokens = int(valid.sum())
    return Loss(float(losses.sum() / tokens), tokens)
