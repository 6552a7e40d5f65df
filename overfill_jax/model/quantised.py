"""Weights in int8 or int4 with scales, and the product that reads them as they are.

Symmetric, rounded to nearest: a weight is its integer times the scale of its output channel, or of
its group of input channels within it. Scales are applied to the product, so that no copy of the
weights in another dtype is made.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.transformer import Model, Params, abstract

BITS = (8, 4)
INTEGERS = (jnp.int8, jnp.int4)
# What errors say of a model where a product alone does not do.
ONLY_ANSWERS = (
    "holds quantised weights, which are for generation; expected those that they were made from"
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A kernel [in, *out] as integers; stacked over layers, both arrays have a leading L.

    Attributes:
      values: [groups, in / groups, *out], int8 or int4.
      scales: [groups, *out].
    """

    values: Int[Array, "..."]
    scales: Float[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How weights are quantised.

    Attributes:
      bits: 8 or 4.
      group: input channels that share a scale; 0 for all of them, one scale an output channel.
    """

    bits: int
    group: int

    def __post_init__(self):
        if self.bits not in BITS:
            raise InputError(f"quantise.bits: found {self.bits}, expected 8 or 4")
        if self.group < 0:
            raise InputError(f"quantise.group: found {self.group}, expected at least 0")


def quantise(kernel: Float[Array, "in *out"], scheme: Scheme) -> Quantised:
    """The kernel as integers; a group that does not divide `in` is refused by `check_scheme`."""
    group = scheme.group or kernel.shape[0]
    grouped = kernel.reshape(-1, group, *kernel.shape[1:]).astype(jnp.float32)
    most = 2 ** (scheme.bits - 1) - 1
    # Rounded as they are stored, so that the integers make up for it.
    scales = (jnp.max(jnp.abs(grouped), axis=1) / most).astype(kernel.dtype)
    safe = jnp.where(scales == 0, 1, scales).astype(jnp.float32)
    values = jnp.clip(jnp.round(grouped / safe[:, None]), -most, most)
    return Quantised(values.astype(f"int{scheme.bits}"), scales)


def restore(kernel: Quantised) -> Float[Array, "in *out"]:
    """The weights that the integers stand for."""
    whole = kernel.values.astype(kernel.scales.dtype) * kernel.scales[:, None]
    return whole.reshape(-1, *whole.shape[2:])


def product(
    x: Float[Array, "... in"], kernel: Float[Array, "in *out"] | Quantised
) -> Float[Array, "..."]:
    """x times the kernel, [..., *out], in the dtype of `x`."""
    if not isinstance(kernel, Quantised):
        return jnp.tensordot(x, kernel, 1)
    groups, size, *_ = kernel.values.shape
    values = kernel.values.astype(x.dtype)
    if groups == 1:
        mixed = jnp.tensordot(x, values[0], 1, preferred_element_type=jnp.float32)
        return (mixed * kernel.scales[0]).astype(x.dtype)
    parts = jax.lax.dot_general(
        x.reshape(*x.shape[:-1], groups, size),
        values,
        (((x.ndim,), (1,)), ((x.ndim - 1,), (0,))),
        preferred_element_type=jnp.float32,
    )
    scales = kernel.scales.reshape(groups, *(1,) * (x.ndim - 1), *kernel.scales.shape[1:])
    return jnp.sum(parts * scales, axis=0).astype(x.dtype)


def quantise_model(model: Model, scheme: Scheme) -> Model:
    """The same model with every kernel quantised; the embedding, of which a token reads one row,
    biases and norms stay as they are. A tied embedding gets a quantised copy to unembed with.

    Raises:
      InputError: a kernel's input channels do not divide into groups.
    """
    check_scheme(model.config, scheme)
    return dataclasses.replace(model, params=_quantise_params(model.params, scheme))


def check_scheme(config: ModelConfig, scheme: Scheme) -> None:
    """Refuses groups that do not divide a kernel's input channels.

    Raises:
      InputError: names the channels.
    """
    inputs = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_heads x head_dim": config.num_heads * config.head_dim,
    }
    for name, size in inputs.items():
        if scheme.group and size % scheme.group:
            raise InputError(
                f"quantise.group: found {scheme.group}, expected a divisor of {name}, {size}"
            )


def check_runs(scheme: Scheme, dtype: str, name: str) -> None:
    """Refuses what the device here cannot multiply with; `name` is what the error calls it.

    Raises:
      InputError: names the device, and what it says.
    """
    width = 4 * scheme.group or 256
    kernel = quantise(jnp.ones((width, 256), dtype), scheme)
    try:
        jax.block_until_ready(jax.jit(product)(jnp.ones((1, width), dtype), kernel))
    except Exception as error:  # whatever a backend raises
        reason = str(error).splitlines()[0]
        device = jax.devices()[0].device_kind
        raise InputError(f"{name}: {device} cannot run int{scheme.bits} ({reason})") from error


def _quantise_params(params: Params, scheme: Scheme) -> Params:
    def stacked(kernel, inputs=1):
        flat = kernel.reshape(kernel.shape[0], -1, *kernel.shape[1 + inputs :])
        return jax.vmap(lambda one: quantise(one, scheme))(flat)

    layers = params["layers"]
    attention = {
        name: weights
        if "norm" in name
        else weights | {"kernel": stacked(weights["kernel"], inputs)}
        for name, weights in layers["attention"].items()
        for inputs in [2 if name == "out" else 1]
    }
    mlp = {name: {"kernel": stacked(weights["kernel"])} for name, weights in layers["mlp"].items()}
    tied = "unembed" not in params
    unembed = params["embed"]["embedding"].T if tied else params["unembed"]["kernel"]
    return params | {
        "layers": layers | {"attention": attention, "mlp": mlp},
        "unembed": {"kernel": quantise(unembed, scheme)},
    }


def abstract_params(config: ModelConfig, scheme: Scheme | None) -> Params:
    """The shapes of a model's weights as `to_plain` gives them, quantised if they are."""
    params = abstract(config, config.dtype).params
    if scheme is None:
        return params
    return jax.eval_shape(lambda tree: to_plain(_quantise_params(tree, scheme)), params)


def scheme_of(params: Params) -> Scheme | None:
    """How these weights are quantised; None where they are not."""
    leaves = jax.tree.leaves(params["layers"], is_leaf=lambda leaf: isinstance(leaf, Quantised))
    values = [leaf.values for leaf in leaves if isinstance(leaf, Quantised)]
    if not values:
        return None
    # A group may be all the inputs of one kernel, and still a part of another's.
    most = max(values, key=lambda one: one.shape[1])
    _, groups, size, *_ = most.shape
    return Scheme(8 if most.dtype == jnp.int8 else 4, 0 if groups == 1 else size)


def stored_bytes(params: Params) -> float:
    """Of these weights; two int4 take one byte on the devices that multiply with them."""
    leaves = jax.tree.leaves(params)
    bits = sum(leaf.size * (4 if leaf.dtype == jnp.int4 else 8 * leaf.itemsize) for leaf in leaves)
    return bits / 8


def to_plain(params: Params) -> Params:
    """The same tree of nothing but dicts and arrays, as files hold it."""
    return jax.tree.map(
        lambda leaf: (
            {"values": leaf.values, "scales": leaf.scales} if isinstance(leaf, Quantised) else leaf
        ),
        params,
        is_leaf=lambda leaf: isinstance(leaf, Quantised),
    )


def from_plain(params: Params | Array) -> Params | Array | Quantised:
    """The reverse of `to_plain`."""
    if not isinstance(params, dict):
        return params
    if params.keys() == {"values", "scales"}:
        return Quantised(**params)
    return {name: from_plain(value) for name, value in params.items()}
