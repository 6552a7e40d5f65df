"""Losses of tokens over a large vocabulary, a few slots of every row at a time.

At 128k tokens of vocabulary the logits of one batch would take more memory than the model. Here
they exist for `chunk` slots of each row at once, and only in the forward pass: it takes the
gradients of hidden states and unembedding on the spot, and the backward pass merely scales them.
On a mesh the unembedding is gathered once, and its gradient, summed on every device over all
chunks, is sent once.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from overfill_jax.model.layout import constrain, split_axes
from overfill_jax.model.transformer import Model, unembedding

# Unembedding and hidden states of another model, for the same slots.
Target = tuple[Float[Array, "C V"], Float[Array, "B R C"]]


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the loss of a token consists of; hashable.

    Attributes:
      cross_entropy_weight, kl_weight: of the two terms.
      temperature: T of both distributions in KL(target || model), which counts T**2 times so that
        its gradients keep their size (Hinton et al., arXiv 1503.02531).
      chunk: most slots of each row whose logits exist at a time.
    """

    cross_entropy_weight: float
    kl_weight: float
    temperature: float
    chunk: int


@dataclasses.dataclass(frozen=True)
class LossSums:
    """Sums over the counted tokens, in nats; gradients flow through `loss` alone."""

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    kl: Float[Array, ""]


def answer_losses(
    terms: Terms,
    model: Model,
    hidden: Float[Array, "B R D"],
    tokens: Int[Array, "B R"],
    counted: Bool[Array, "B R"],
    target: tuple[Model, Float[Array, "B R C"]] | None,
) -> LossSums:
    """What a model's hidden states say about the tokens that belong there.

    Args:
      terms: of the loss.
      model: that the hidden states are of.
      hidden: last hidden states, slot r of which predicts `tokens[:, r]`.
      tokens: the right ones.
      counted: which of them count.
      target: another model with its hidden states, for the divergence; receives no gradient.
    """
    other = target and (_gathered(target[0]), target[1])
    sums = _sums(terms, unembedding(model), hidden, tokens, counted, other)
    return LossSums(*sums)


def token_losses(
    model: Model, hidden: Float[Array, "B R D"], tokens: Int[Array, "B R"], chunk: int
) -> Float[Array, "B R"]:
    """The negative log-likelihood of every single token in nats; not to be differentiated."""
    kernel = _gathered(model)

    def one(_, part):
        hidden, tokens = part
        return None, -log_likelihood(_logits(hidden, kernel), tokens)

    _, losses = jax.lax.scan(one, None, _cut((hidden, tokens), chunk))
    return _joined(losses, tokens.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(terms: Terms, kernel, hidden, tokens, counted, target):
    return _on_all_parts(terms, False, kernel, hidden, tokens, counted, target)[0]


def _sums_forward(terms: Terms, kernel, hidden, tokens, counted, target):
    return _on_all_parts(terms, True, kernel, hidden, tokens, counted, target)


def _sums_backward(_: Terms, gradients, cotangents):
    kernel, hidden = gradients
    scale = cotangents[0]
    return scale * kernel, (scale * hidden).astype(hidden.dtype), None, None, None


_sums.defvjp(_sums_forward, _sums_backward)


def _on_all_parts(terms: Terms, differentiate: bool, kernel, hidden, tokens, counted, target):
    """`_on_one_part` of every device's rows, and what belongs together summed up."""
    kernel = constrain(kernel.astype(hidden.dtype), None, "vocab")
    one = functools.partial(_on_one_part, terms, differentiate)
    axes = split_axes("batch", len(tokens))
    if not axes:
        return one(kernel, hidden, tokens, counted, target)
    # The gradient of the unembedding lies like the unembedding itself.
    scattered = split_axes("embed", len(kernel))

    def summed(*inputs):
        sums, gradients = one(*inputs)
        sums = jax.lax.psum(sums, axes)
        if not differentiate:
            return sums, gradients
        whole, slots = gradients
        return sums, (_sum_of_all(whole, axes, scattered), slots)

    rows, everywhere = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(
        summed,
        in_specs=(everywhere, rows, rows, rows, target and (everywhere, rows)),
        out_specs=(everywhere, (PartitionSpec(scattered), rows) if differentiate else None),
        axis_names=set(axes),
        check_vma=False,  # on the way gradients are sums of this device alone
    )(kernel, hidden, tokens, counted, target)


def _sum_of_all(gradient: Array, axes: tuple[str, ...], scattered: tuple[str, ...]) -> Array:
    """The sum of all devices' gradients of the unembedding, or the part of it that lies here."""

    def total(gradient):
        for axis in scattered:
            gradient = jax.lax.psum_scatter(gradient, axis, scatter_dimension=0, tiled=True)
        return jax.lax.psum(gradient, tuple(axis for axis in axes if axis not in scattered))

    vocabulary = split_axes("vocab", gradient.shape[1])
    if not vocabulary:
        return total(gradient)
    # Left to itself the compiler brings the whole vocabulary together before it scatters.
    split = PartitionSpec(None, vocabulary)
    return jax.shard_map(
        total, in_specs=split, out_specs=split, axis_names=set(vocabulary), check_vma=False
    )(gradient)


def _on_one_part(terms: Terms, differentiate: bool, kernel, hidden, tokens, counted, target):
    """Sums over these rows, with the gradients of kernel and hidden states if asked for.

    Returns:
      `(loss, cross_entropy, kl)`, and `(d loss / d kernel, d loss / d hidden)` or None.
    """
    other, wide = (None, None) if target is None else target

    def one(carry, part):
        sums, gradient = carry
        hidden, tokens, counted, wide = part
        aim = None if other is None else _logits(wide, other)
        found, slope = _chunk(terms, _logits(hidden, kernel), tokens, counted, aim)
        sums = jax.tree.map(jnp.add, sums, found)
        if not differentiate:
            return (sums, None), None
        slope = slope.astype(hidden.dtype)
        gradient += jnp.einsum("bcd,bcv->dv", hidden, slope, preferred_element_type=jnp.float32)
        return (sums, gradient), jnp.einsum("bcv,dv->bcd", slope, kernel)

    nothing = (jnp.zeros(()),) * 3
    gradient = jnp.zeros(kernel.shape) if differentiate else None
    chunks = _cut((hidden, tokens, counted, wide), terms.chunk)
    (sums, gradient), slopes = jax.lax.scan(one, (nothing, gradient), chunks)
    if not differentiate:
        return sums, None
    return sums, (gradient, _joined(slopes, tokens.shape[1]))


def _chunk(
    terms: Terms,
    logits: Float[Array, "B C V"],
    tokens: Int[Array, "B C"],
    counted: Bool[Array, "B C"],
    aim: Float[Array, "B C V"] | None,
) -> tuple[tuple[Float[Array, ""], ...], Float[Array, "B C V"]]:
    """Sums of loss, cross-entropy and KL, and the slope of the loss along the logits."""
    cross_entropy = jnp.sum(jnp.where(counted, -log_likelihood(logits, tokens), 0.0))
    slope = terms.cross_entropy_weight * (jax.nn.softmax(logits) - _chosen(logits, tokens))
    kl = jnp.zeros(())
    if aim is not None:
        divergences = divergence(aim, logits, terms.temperature)
        kl = jnp.sum(jnp.where(counted, divergences, 0.0))
        soft, wanted = (jax.nn.softmax(x / terms.temperature) for x in (logits, aim))
        slope += terms.kl_weight * terms.temperature * (soft - wanted)
    loss = terms.cross_entropy_weight * cross_entropy + terms.kl_weight * kl
    return (loss, cross_entropy, kl), jnp.where(counted[..., None], slope, 0.0)


def log_likelihood(logits: Float[Array, "*N V"], tokens: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Log-probability of each token."""
    picked = jnp.sum(jnp.where(_chosen(logits, tokens), logits, 0.0), axis=-1)
    return picked - jax.nn.logsumexp(logits, axis=-1)


def divergence(
    target: Float[Array, "*N V"], logits: Float[Array, "*N V"], temperature: float
) -> Float[Array, "*N"]:
    """KL(target || logits) at a temperature, times its square."""
    target = jax.nn.log_softmax(target / temperature)
    logits = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - logits), axis=-1)


def _chosen(logits: Float[Array, "*N V"], tokens: Int[Array, "*N"]) -> Bool[Array, "*N V"]:
    """A mask, for a gather would bring a vocabulary that is split together again."""
    return jnp.arange(logits.shape[-1]) == tokens[..., None]


def _gathered(model: Model) -> Float[Array, "D V"]:
    """The unembedding for reading alone."""
    kernel = jax.lax.stop_gradient(unembedding(model))
    return constrain(kernel.astype(model.config.dtype), None, "vocab")


def _logits(hidden: Float[Array, "B C D"], kernel: Float[Array, "D V"]) -> Float[Array, "B C V"]:
    return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)


def _cut(arrays, chunk: int):
    """Every [B, R, ...] as [chunks, B, size, ...], filled up with 0, with sizes up to `chunk`."""

    def cut(array: Array) -> Array:
        batch, slots, *rest = array.shape
        count = math.ceil(slots / chunk)
        size = math.ceil(slots / count)
        room = count * size - slots
        array = jnp.pad(array, ((0, 0), (0, room), *((0, 0) for _ in rest)))
        return jnp.moveaxis(array.reshape(batch, count, size, *rest), 1, 0)

    return jax.tree.map(cut, arrays)


def _joined(chunks: Array, slots: int) -> Array:
    """[chunks, B, size, ...] as [B, slots, ...]."""
    joined = jnp.moveaxis(chunks, 0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])[:, :slots]
