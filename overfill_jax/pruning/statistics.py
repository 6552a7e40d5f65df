"""What one sample says about a channel: the statistics behind channel importance.

Paper, section 3 and appendix; reference: `pruner/hooks_llama_qwen.py`, which takes `signed_mean`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from overfill_jax.model.transformer import Observe, Params

STATISTICS = ("signed_mean", "abs_mean", "rms", "weighted")


def observer(statistic: str, counted: Bool[Array, "B T"]) -> Observe:
    """Reduces activations to one number per sample and channel, over the counted tokens.

    `signed_mean` lets opposite signs cancel, `abs_mean` does not, `rms` stresses outliers;
    `weighted` starts from `rms` (see `weight_norms`). Of the stream, whatever the statistic, it is
    the mean of `energies`. A sample without a counted token gives 0.
    """

    def observe(name: str, activation: Float[Array, "B T C"]) -> Float[Array, "B C"]:
        wide, root = activation.astype(jnp.float32), statistic in ("rms", "weighted")
        if name == "stream":
            wide, root = energies(wide), False
        elif statistic == "abs_mean":
            wide = jnp.abs(wide)
        elif root:
            wide = wide * wide
        total = jnp.sum(jnp.where(counted[..., None], wide, 0.0), axis=1)
        mean = total / jnp.maximum(jnp.sum(counted, axis=1), 1)[:, None]
        return jnp.sqrt(mean) if root else mean

    return observe


def energies(stream: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    """Every channel's square, over the mean square of its token's channels.

    So that each token counts alike: a few of them (the first of a text) hold a thousand times the
    energy of the others.
    """
    squares = stream * stream
    mean = jnp.mean(squares, axis=-1, keepdims=True)
    return squares / jnp.maximum(mean, jnp.finfo(stream.dtype).tiny)


def weight_norms(params: Params) -> dict[str, Float[Array, "L _"]]:
    """L2 norm of the weights that read each channel, by the activation that carries it.

    An activation times this norm bounds what the channel adds downstream (as in Wanda,
    arXiv 2306.11695, summed over a channel's outputs).
    """
    attention, mlp = params["layers"]["attention"], params["layers"]["mlp"]

    def norm(*readers: Params, inputs: int = 1) -> Array:
        kernels = (reader["kernel"].astype(jnp.float32) for reader in readers)
        squares = (jnp.sum(w * w, axis=tuple(range(1 + inputs, w.ndim))) for w in kernels)
        return jnp.sqrt(sum(squares))

    by_head = norm(attention["out"], inputs=2)

    return {
        "attention_input": norm(attention["query"], attention["key"], attention["value"]),
        "mlp_input": norm(mlp["gate"], mlp["up"]),
        "mixed": by_head.reshape(len(by_head), -1),
        "inner": norm(mlp["down"]),
    }
