"""From the config to what every step of a run shares."""

import ml_collections

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.low_rank import LowRank
from overfill_jax.training.losses import Terms
from overfill_jax.training.methods import Method
from overfill_jax.training.objective import Objective
from overfill_jax.training.step import Setup, make_optimizer, make_schedule


def make_setup(
    train: ml_collections.ConfigDict, method: Method, configs: dict[str, ModelConfig], steps: int
) -> Setup:
    """The part of the run that every step shares."""
    schedule = make_schedule(train.learning_rate, steps, train.warmup, train.final_learning_rate)
    terms = Terms(
        train.cross_entropy_weight, train.kl_weight, train.kl_temperature, train.loss_chunk
    )
    return Setup(
        configs=tuple(configs.items()),
        roles=(method.reader, method.writer),
        trained=method.trained,
        objective=Objective(terms, train.first_token, train.handoffs),
        optimizer=make_optimizer(
            schedule,
            train.beta1,
            train.beta2,
            train.epsilon,
            train.weight_decay,
            train.clip_norm,
        ),
        schedule=schedule,
        accumulation=train.accumulation,
        remat=train.remat,
        low_rank=LowRank(train.lora_rank, train.lora_alpha) if train.lora_rank else None,
    )
