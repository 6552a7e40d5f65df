"""The transformer. Full model and decoder are this one module with two configs.

Dimensions, everywhere in the project:
  B batch   T new tokens   S cache slots   L layers   D width of the residual stream
  N query heads   K kv heads   G = N / K   H head dim   F mlp width   V vocabulary
  P prompt slots   R answer slots

Weights are a plain nested dict, the layers stacked along a leading L, so that one compiled block
serves all layers, and pruning is one `take` per array. Their logical axes are named where they
are declared; `model/sharding.py` maps the names to a mesh.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from overfill_jax.model.attention import attention
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import constrain
from overfill_jax.model.rope import rotate, rotation

Params = dict[str, Any]
# Reduces the activation [B, T, C] of a name to a statistic [B, C] of each row; see
# `pruning/statistics`.
Observe = Callable[[str, Array], Array]

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Model:
    """A config with the weights that fit it; a pytree whose leaves are the weights."""

    config: ModelConfig = dataclasses.field(metadata={"static": True})
    params: Params = dataclasses.field(repr=False)  # thousands of lines in a notebook


class Weight(nn.Module):
    """One named array, with its logical axes, cast to the dtype of the computation."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    initializer: nn.initializers.Initializer
    dtype: str
    leaf: str = "kernel"

    @nn.compact
    def __call__(self) -> Array:
        initializer = nn.with_logical_partitioning(self.initializer, self.axes)
        return self.param(self.leaf, initializer, self.shape).astype(self.dtype)


def _fan_in(*inputs: int, scale: float = 1.0) -> nn.initializers.Initializer:
    def initializer(key, shape, dtype=jnp.float32):
        fan = 1
        for axis in inputs:
            fan *= shape[axis]
        return scale * fan**-0.5 * jax.random.truncated_normal(key, -2, 2, shape, dtype)

    return initializer


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis; the rms in float32."""

    size: int
    axis: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        ones = nn.initializers.ones_init()
        scale = self.param("scale", nn.with_logical_partitioning(ones, (self.axis,)), (self.size,))
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        return normed * scale.astype(x.dtype)


class Attention(nn.Module):
    """Projects, rotates, writes the new keys and values into the cache, attends."""

    config: ModelConfig
    observe: Observe | None
    offset: int | None

    @nn.compact
    def __call__(self, x, layer_cache, rope, segments, seen, cursor):
        c = self.config
        query = self._project("query", x, c.num_heads, "heads")
        key = self._project("key", x, c.num_kv_heads, "kv_heads")
        value = self._project("value", x, c.num_kv_heads, "kv_heads")
        if c.qk_norm:
            query = RMSNorm(c.head_dim, "head_dim", c.norm_epsilon, name="query_norm")(query)
            key = RMSNorm(c.head_dim, "head_dim", c.norm_epsilon, name="key_norm")(key)
        query, key = rotate(query, *rope), rotate(key, *rope)
        if layer_cache is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            key = write(layer_cache[0], key.astype(layer_cache[0].dtype), cursor, axis=1)
            value = write(layer_cache[1], value.astype(layer_cache[1].dtype), cursor, axis=1)
        offset = cursor if self.offset is None else self.offset
        owners, until = seen
        mixed = attention(query, key, value, segments, owners, offset, c.attention, until)
        if self.observe is not None:
            by_channel = mixed.reshape(*mixed.shape[:2], -1)
            self.sow("observed", "mixed", self.observe("mixed", by_channel))
        shape = (c.num_heads, c.head_dim, c.hidden_size)
        axes = ("heads", "head_dim", "embed")
        scale = (2 * c.num_layers) ** -0.5
        out = Weight(shape, axes, _fan_in(0, 1, scale=scale), c.dtype, name="out")()
        return jnp.einsum("btnh,nhd->btd", mixed, out), (key, value)

    def _project(self, name: str, x, heads: int, axis: str):
        c = self.config
        shape, axes = (c.hidden_size, heads, c.head_dim), ("embed", axis, "head_dim")
        projection = _Projection(shape, axes, c.qkv_bias, c.dtype, name=name)
        return projection(x)


class _Projection(nn.Module):
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T heads H"]:
        kernel = nn.with_logical_partitioning(_fan_in(0), self.axes)
        kernel = self.param("kernel", kernel, self.shape).astype(self.dtype)
        projected = jnp.einsum("btd,dnh->btnh", x, kernel)
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[1:])
            projected += self.param("bias", zeros, self.shape[1:]).astype(self.dtype)
        return projected


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    config: ModelConfig
    observe: Observe | None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        wide, axes = (c.hidden_size, c.intermediate_size), ("embed", "mlp")
        gate = Weight(wide, axes, _fan_in(0), c.dtype, name="gate")()
        up = Weight(wide, axes, _fan_in(0), c.dtype, name="up")()
        inner = jax.nn.silu(x @ gate) * (x @ up)
        if self.observe is not None:
            self.sow("observed", "inner", self.observe("inner", inner))
        narrow = _fan_in(0, scale=(2 * c.num_layers) ** -0.5)
        return inner @ Weight(wide[::-1], axes[::-1], narrow, c.dtype, name="down")()


class Block(nn.Module):
    """One layer: attention, then MLP, each behind its own norm and added to the stream.

    `offset` is the cursor where it is known when compiling: an argument would be traced where the
    layers are scanned and rematerialised, and attention kernels are built for one offset.
    """

    config: ModelConfig
    observe: Observe | None
    offset: int | None

    @nn.compact
    def __call__(self, x, layer_cache, rope, segments, seen, cursor):
        c, before = self.config, x
        self._observe("stream", x)
        normed = RMSNorm(c.hidden_size, "embed", c.norm_epsilon, name="attention_norm")(x)
        self._observe("attention_input", normed)
        mixed, layer_cache = Attention(c, self.observe, self.offset, name="attention")(
            normed, layer_cache, rope, segments, seen, cursor
        )
        x = x + mixed
        self._observe("stream", x)
        normed = RMSNorm(c.hidden_size, "embed", c.norm_epsilon, name="mlp_norm")(x)
        self._observe("mlp_input", normed)
        x = x + MLP(c, self.observe, name="mlp")(normed)
        if self.observe is not None:
            self._observe("turn", _turn(before, x))
        # Said in every layer: the compiler would otherwise be free to split the stream's width.
        return constrain(x, "batch", None, None), layer_cache

    def _observe(self, name: str, activation) -> None:
        if self.observe is not None:
            self.sow("observed", name, self.observe(name, activation))


def _turn(before: Float[Array, "B T D"], after: Float[Array, "B T D"]) -> Float[Array, "B T 1"]:
    """1 - cosine: 0 where only the length has changed."""
    before, after = before.astype(jnp.float32), after.astype(jnp.float32)
    norm = functools.partial(jnp.linalg.norm, axis=-1, keepdims=True)
    size = jnp.maximum(norm(before) * norm(after), jnp.finfo(jnp.float32).tiny)
    return 1 - jnp.sum(before * after, axis=-1, keepdims=True) / size


class Transformer(nn.Module):
    """Tokens to the last hidden states, and those to logits."""

    config: ModelConfig
    remat: str
    observe: Observe | None = None
    offset: int | None = None

    def setup(self):
        c = self.config
        embedding = nn.initializers.normal(0.02)
        self.embed = Weight(
            (c.vocab_size, c.hidden_size), ("vocab", "embed"), embedding, c.dtype, "embedding"
        )
        block = Block
        if self.remat != "none":
            # Inside a scan XLA cannot undo the recomputation, so nothing has to prevent it.
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        stacked = nn.scan(
            block,
            variable_axes={"params": 0, "observed": 0},
            split_rngs={"params": True},
            in_axes=(0, *(nn.broadcast,) * 4),
            length=c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        self.layers = stacked(c, self.observe, self.offset)
        self.final_norm = RMSNorm(c.hidden_size, "embed", c.norm_epsilon)
        if not c.tied_embeddings:
            shape, axes = (c.hidden_size, c.vocab_size), ("embed", "vocab")
            self.unembed = Weight(shape, axes, _fan_in(0), c.dtype)

    def __call__(self, tokens, positions, segments, cache: KVCache | None):
        c = self.config
        x = constrain(jnp.take(self.embed(), tokens, axis=0), "batch", None, None)
        rope = rotation(c.rope, c.head_dim, positions)
        layer_caches = None if cache is None else (cache.key, cache.value)
        seen = (segments, None) if cache is None else (cache.segments, cache.until)
        cursor = 0 if cache is None else cache.cursor
        x, layer_caches = self.layers(x, layer_caches, rope, segments, seen, cursor)
        if self.observe is not None:
            self.sow("observed", "stream", self.observe("stream", x))
        return self.final_norm(x), layer_caches

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        kernel = self.embed().T if self.config.tied_embeddings else self.unembed()
        return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)

    def initialise(self, tokens):
        """Touches every weight once."""
        hidden, _ = self(tokens, tokens, tokens, None)
        return self.logits(hidden)


def hidden_states(
    model: Model,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    cache: KVCache | None = None,
    remat: str = "none",
) -> tuple[Float[Array, "B T D"], Float[Array, "L B S K H"], Float[Array, "L B S K H"]]:
    """Last hidden states (normed) of the new tokens, with the keys and values they leave behind.

    Without a cache the tokens see one another and S = T; with one they are written to its slots
    `cursor .. cursor + T`, and `cache.segments` must already count them.
    """
    offset = 0 if cache is None else cache.known_cursor
    transformer = Transformer(model.config, remat, offset=offset)
    variables = {"params": model.params}
    hidden, (key, value) = transformer.apply(variables, tokens, positions, segments, cache)
    return hidden, key, value


def observed_statistics(
    model: Model,
    tokens: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    observe: Observe,
) -> dict[str, Array]:
    """What `observe` makes of every layer's activations, in one pass without a cache.

    Returns:
      `attention_input` and `mlp_input` [L, B, D], the outputs of the two norms; `mixed`
      [L, B, N * H] and `inner` [L, B, F], the inputs of the out and the down projection; `turn`
      [L, B, 1], 1 - cosine of the stream before and behind the layer; `stream` [2 L + 1, B, D],
      the inputs of all norms from the first to the final one.
    """
    transformer = Transformer(model.config, "none", observe, offset=0)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    variables = {"params": model.params}
    _, sown = transformer.apply(variables, tokens, positions, segments, None, mutable=["observed"])
    layers = sown["observed"]["layers"]
    of_layers = {name: layers[name][0] for name in ("attention_input", "mlp_input", "turn")}
    inner = {"mixed": layers["attention"]["mixed"][0], "inner": layers["mlp"]["inner"][0]}
    # Two of every layer, in the order in which they were sown, and that of the final norm.
    two = jnp.stack(layers["stream"], axis=1)
    stream = [two.reshape(-1, *two.shape[2:]), jnp.stack(sown["observed"]["stream"])]
    return of_layers | inner | {"stream": jnp.concatenate(stream)}


def unembed(model: Model, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Logits in float32."""
    transformer = Transformer(model.config, "none")
    return transformer.apply({"params": model.params}, hidden, method=Transformer.logits)


def unembedding(model: Model) -> Float[Array, "D V"]:
    """What hidden states are multiplied with for logits, in the dtype that it is stored in."""
    if model.config.tied_embeddings:
        return model.params["embed"]["embedding"].T
    return model.params["unembed"]["kernel"]


def init(config: ModelConfig, key: Array) -> Model:
    """A model with random weights in float32."""
    # Compiled as one program: drawing array by array would compile each shape on its own.
    return Model(config, jax.jit(lambda key: nn.unbox(_boxed_params(config, key)))(key))


def abstract(config: ModelConfig, dtype: str) -> Model:
    """The shapes of a model's weights, holding nothing."""
    shapes = nn.unbox(jax.eval_shape(lambda key: _boxed_params(config, key), jax.random.key(0)))
    return Model(config, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes))


def logical_axes(config: ModelConfig) -> Params:
    """The names of every weight's axes: a tree of `PartitionSpec` shaped like the weights."""
    boxed = jax.eval_shape(lambda key: _boxed_params(config, key), jax.random.key(0))
    return nn.get_partition_spec(boxed)


def _boxed_params(config: ModelConfig, key: Array) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    transformer = Transformer(config, "none")
    return transformer.init(key, tokens, method=Transformer.initialise)["params"]
