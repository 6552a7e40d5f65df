"""One optimiser step: loss, gradients over micro-batches, AdamW on float32 masters."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from overfill_jax.data.batches import Batch
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import constrain
from overfill_jax.model.low_rank import LEAVES, LowRank, adapted
from overfill_jax.model.transformer import Model, Params
from overfill_jax.training.objective import Objective, loss_sums

Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What training changes: the step, float32 weights of the trained models, AdamW's moments.

    With adapters, the weights and moments are theirs alone.

    The leaves are arrays, or what stands for them: their shapes, or where they lie.
    """

    step: Any
    params: dict[str, Params]
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True)
class Setup:
    """What stays the same from step to step; hashable, so that one compilation serves a run.

    Attributes:
      configs: pairs of a model's name and shape, frozen models included.
      roles: names of reader and writer.
      trained: names of the models that the optimiser changes.
      objective: what is minimised.
      optimizer: the update rule, of `make_optimizer`.
      schedule: learning rate by step, for the metrics.
      accumulation: micro-batches per step.
      remat: what the backward pass recomputes.
      low_rank: adapters of the trained models, which are then all that changes; None without.
    """

    configs: tuple[tuple[str, ModelConfig], ...]
    roles: tuple[str, str]
    trained: frozenset[str]
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    accumulation: int
    remat: str
    low_rank: LowRank | None


def make_schedule(peak: float, steps: int, warmup: float, final: float) -> optax.Schedule:
    """Linear warm-up over a share of the steps, then a cosine down to `final` times the peak."""
    # A share that rounds to no step still begins with one, whose rate is 0; no share does not.
    warmup_steps = max(1, round(warmup * steps)) if warmup else 0
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps, max(steps, warmup_steps + 1), final * peak
    )


def make_optimizer(
    schedule: optax.Schedule,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """AdamW behind global-norm clipping; norms and biases do not decay."""

    def decays(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key in ("kernel", "embedding", *LEAVES), params
        )

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, beta1, beta2, epsilon, weight_decay=weight_decay, mask=decays),
    )


def init_state(setup: Setup, params: dict[str, Params]) -> TrainState:
    """A state at step 0 from the weights (or adapters) to be trained, copied to float32."""
    # Copies: the state is donated at every step, and the caller's weights must outlive it.
    params = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
    return TrainState(jnp.zeros((), jnp.int32), params, setup.optimizer.init(params))


def state_tree(state: TrainState) -> dict:
    """The state as nested plain containers, the form that checkpoints are kept in."""
    return {"step": state.step, "params": state.params, "optimizer": state.optimizer}


def train_step(
    setup: Setup, state: TrainState, frozen: dict[str, Params], batch: Batch
) -> tuple[TrainState, Metrics]:
    """Updates the trained models once.

    The batch is cut into `accumulation` micro-batches of consecutive rows; gradients and losses
    are means over all their tokens, whatever the cut.

    Returns:
      The next state, and `loss`, `cross_entropy`, `kl` per token, `tokens`, `gradient_norm`
      before clipping, `learning_rate`; `all_tokens`, those of prompts, too, and `filled`, their
      share of the batch's slots.
    """
    arrays, structure = jax.tree.flatten(batch)
    micros = [_micro_batches(array, setup.accumulation) for array in arrays]

    def one(total, micro):
        batch = jax.tree.unflatten(structure, micro)
        sums = functools.partial(_sums, setup, frozen=frozen, batch=batch)
        (_, terms), gradients = jax.value_and_grad(sums, has_aux=True)(state.params)
        return jax.tree.map(jnp.add, total, (terms, gradients)), None

    terms = dict.fromkeys(("loss", "cross_entropy", "kl", "tokens"), jnp.zeros(()))
    nothing = terms, jax.tree.map(jnp.zeros_like, state.params)
    (terms, gradients), _ = jax.lax.scan(one, nothing, micros)
    tokens = jnp.maximum(terms["tokens"], 1.0)
    gradients = jax.tree.map(lambda g: g / tokens, gradients)
    updates, optimizer = setup.optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {name: terms[name] / tokens for name in ("loss", "cross_entropy", "kl")} | {
        "tokens": terms["tokens"],
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(setup.schedule(state.step)),
        "all_tokens": jnp.sum(_filled(batch), dtype=jnp.float32),
        "filled": jnp.mean(_filled(batch), dtype=jnp.float32),
    }
    return TrainState(state.step + 1, params, optimizer), metrics


def validation_sums(
    setup: Setup, params: dict[str, Params], frozen: dict[str, Params], batch: Batch
) -> Metrics:
    """The sums of `loss_sums` over one batch, without gradients."""
    return _sums(setup, params, frozen, batch)[1]


def _sums(
    setup: Setup, params: dict[str, Params], frozen: dict[str, Params], batch: Batch
) -> tuple[Array, Metrics]:
    configs, low_rank = dict(setup.configs), setup.low_rank
    if low_rank:
        params = {name: adapted(frozen[name], p, low_rank.scale) for name, p in params.items()}
    models = {name: Model(configs[name], p) for name, p in (frozen | params).items()}
    terms = loss_sums(models, setup.roles, setup.trained, setup.objective, batch, setup.remat)
    return terms["loss"], terms


def _filled(batch: Batch) -> Bool[Array, "B S"]:
    return jnp.concatenate([batch.prompt_segments, batch.answer_segments], axis=1) > 0


def _micro_batches(array: Array, count: int) -> Array:
    array = array.reshape(count, -1, *array.shape[1:])
    return constrain(array, None, "batch", None)
