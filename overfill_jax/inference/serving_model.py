"""A model laid out for serving: layer by layer, with the products that share an input joined.

The same computation as `model/transformer` and `two_stage`, which training uses and tests compare
with. A decode step takes as long as its weights take to be read, so nothing may be read twice:
weights that are stacked over layers are copied, slice by slice, on some platforms; and kernels of
more than two axes on TPUs, whose tiles lie over the last two. What becomes one channel of the
result lies together: a CPU multiplies a few rows with such kernels in two thirds of the time.
"""

import contextlib
import dataclasses
import functools
from dataclasses import field

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from overfill_jax.inference.placement import Blocks, axes, keep, lies_on, mesh_of, place
from overfill_jax.inference.serving_cache import Entries, ServingCache, attend, write
from overfill_jax.model.attention import attention
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import constrain, parts, platform
from overfill_jax.model.quantised import INTEGERS, Quantised, product
from overfill_jax.model.rope import rotate, rotation
from overfill_jax.model.transformer import Model, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """The weights of one layer.

    Attributes:
      kv_heads, branch_blocks: K; and in how many blocks the branches of the MLP lie by turns: as
        many as a mesh splits them in, so that no device lacks its part of either.
      attention_norm, mlp_norm: scales of the two norms.
      qkv: of every kv head its G query heads, its key and its value, one behind the other;
        [K, G + 2, H, D], flat but for D.
      qkv_bias: where the family has one.
      query_norm, key_norm: scales, where the family has them.
      out: of the mixed heads.
      gate_up: both branches of the MLP; [branch_blocks, 2, F / branch_blocks, D], flat but for D.
      down: of the MLP.

    Quantised kernels have their inputs first, and are flat in the same way.
    """

    kv_heads: int = field(metadata={"static": True})
    branch_blocks: int = field(metadata={"static": True})
    attention_norm: Float[Array, "D"] = field(metadata=axes("embed"))
    qkv: Float[Array, "qkv D"] | Quantised = field(
        metadata=axes(Blocks("kv_heads", "kv_heads"), "embed")
    )
    qkv_bias: Float[Array, "qkv"] | None = field(metadata=axes(Blocks("kv_heads", "kv_heads")))
    query_norm: Float[Array, "H"] | None = field(metadata=axes("head_dim"))
    key_norm: Float[Array, "H"] | None = field(metadata=axes("head_dim"))
    out: Float[Array, "D NH"] | Quantised = field(metadata=axes("embed", "heads"))
    mlp_norm: Float[Array, "D"] = field(metadata=axes("embed"))
    gate_up: Float[Array, "gate_up D"] | Quantised = field(
        metadata=axes(Blocks("mlp", "branch_blocks"), "embed")
    )
    down: Float[Array, "D F"] | Quantised = field(metadata=axes("embed", "mlp"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ServingModel:
    """A config with its weights, in the dtype of the computation or quantised.

    `unembed` is None where the embedding does its work.
    """

    config: ModelConfig = field(metadata={"static": True})
    embed: Float[Array, "V D"] = field(metadata=axes("vocab", "embed"))
    layers: tuple[Layer, ...]
    final_norm: Float[Array, "D"] = field(metadata=axes("embed"))
    unembed: Float[Array, "V D"] | Quantised | None = field(metadata=axes("vocab", "embed"))


def lay_out(model: Model | ServingModel, mesh: Mesh | None = None) -> ServingModel:
    """The same model as serving reads it; the given one is left as it is.

    Args:
      model: with weights that lie on the mesh, whose parts then never leave their devices; or
        elsewhere, from where they move layer by layer. One that is laid out already is moved, too.
      mesh: where serving has them; None for where they lie.
    """
    mesh = mesh or mesh_of(model)
    there, blocks = lies_on(model, mesh), branch_blocks(model.config, mesh)

    def placed(tree):
        return tree if there else place(tree, mesh)

    if isinstance(model, ServingModel):
        # Of another mesh of the same devices each has other parts.
        layers = tuple(place(_in_other_blocks(layer, blocks), mesh) for layer in model.layers)
        return dataclasses.replace(place(model, mesh), layers=layers)
    c, params = model.config, model.params
    with jax.set_mesh(mesh) if there else contextlib.nullcontext():
        layers = tuple(
            placed(_layer(params["layers"], index, c.dtype, blocks))
            for index in range(c.num_layers)
        )
        around = ServingModel(
            config=c,
            embed=params["embed"]["embedding"].astype(c.dtype),
            layers=(),
            final_norm=params["final_norm"]["scale"].astype(c.dtype),
            unembed=_outputs_first(_cast(params["unembed"]["kernel"], c.dtype))
            if "unembed" in params
            else None,
        )
    return dataclasses.replace(place(around, mesh), layers=layers)


def branch_blocks(config: ModelConfig, mesh: Mesh | AbstractMesh) -> int:
    """In how many parts the mesh splits the MLP."""
    split = parts("mlp", mesh)
    return 1 if config.intermediate_size % split else split


@functools.partial(jax.jit, static_argnames=("dtype", "blocks"))
def _layer(stacked: Params, index: Int[Array, ""], dtype: str, blocks: int) -> Layer:
    layer = _cast(jax.tree.map(lambda leaf: leaf[index], stacked), dtype)
    attention, mlp = layer["attention"], layer["mlp"]
    query, key, value = (attention[name] for name in ("query", "key", "value"))
    norms = {
        name: attention[name]["scale"] if name in attention else None
        for name in ("query_norm", "key_norm")
    }
    out = attention["out"]["kernel"]
    laid_out = Layer(
        kv_heads=jax.tree.leaves(key["kernel"])[0].shape[-2],
        branch_blocks=blocks,
        attention_norm=layer["attention_norm"]["scale"],
        qkv=_outputs_first(jax.tree.map(_join, query["kernel"], key["kernel"], value["kernel"])),
        qkv_bias=_join(query["bias"], key["bias"], value["bias"]) if "bias" in query else None,
        **norms,
        out=out if isinstance(out, Quantised) else _outputs_first(out.reshape(-1, out.shape[-1])),
        mlp_norm=layer["mlp_norm"]["scale"],
        gate_up=_outputs_first(
            jax.tree.map(
                lambda gate, up: _alternate(jnp.stack([gate, up], axis=-2), blocks),
                mlp["gate"]["kernel"],
                mlp["up"]["kernel"],
            )
        ),
        down=_outputs_first(mlp["down"]["kernel"]),
    )
    return keep(laid_out)


def _cast(tree, dtype: str):
    """All but integers."""
    return jax.tree.map(lambda x: x if x.dtype in INTEGERS else x.astype(dtype), tree)


def _outputs_first(kernel: Float[Array, "in out"] | Quantised) -> Array | Quantised:
    return kernel if isinstance(kernel, Quantised) else kernel.T


def _alternate(branches: Array, blocks: int) -> Array:
    """[..., 2, F] as [..., blocks, 2, F / blocks], flat."""
    split = branches.reshape(*branches.shape[:-1], blocks, -1)
    return split.swapaxes(-3, -2).reshape(*branches.shape[:-2], -1)


def _in_other_blocks(layer: Layer, blocks: int) -> Layer:
    if layer.branch_blocks == blocks:
        return layer

    def again(array: Array) -> Array:
        split = array.reshape(*array.shape[:-1], layer.branch_blocks, 2, -1).swapaxes(-3, -2)
        return _alternate(split.reshape(*array.shape[:-1], 2, -1), blocks)

    if isinstance(layer.gate_up, Quantised):
        gate_up = jax.tree.map(again, layer.gate_up)
    else:
        gate_up = again(layer.gate_up.T).T
    return dataclasses.replace(layer, gate_up=gate_up, branch_blocks=blocks)


def _join(query: Array, key: Array, value: Array) -> Array:
    """[..., N, H] and twice [..., K, H] as [..., K, G + 2, H], flat."""
    # By kv head, so that a mesh axis which splits the heads splits the joined array as well.
    grouped = query.reshape(*key.shape[:-1], -1, key.shape[-1])
    joined = jnp.concatenate([grouped, key[..., None, :], value[..., None, :]], axis=-2)
    return joined.reshape(*key.shape[:-2], -1)


def prefill(
    model: ServingModel,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    slots: int,
    wanted: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B P D"] | Float[Array, "B 1 D"], ServingCache]:
    """Reads right-padded prompts: their last hidden states, and a cache of `slots` slots a row.

    Where `wanted` says of which token of each row the hidden state is wanted, it is of that alone,
    and the others stop in the last layer at their keys and values.
    """
    room = ((0, 0), (0, 0), (0, slots - tokens.shape[1]), (0, 0))

    def mix(query, key, value, _):
        entries = tuple(Entries(jnp.pad(x.swapaxes(1, 2), room), None) for x in (key, value))
        if query.shape[1] < key.shape[1]:
            return attend(query, *entries, wanted, tokens.shape[1]), entries
        flat = query.reshape(*query.shape[:2], -1, query.shape[-1])
        mixed = attention(flat, key, value, None, None, 0, model.config.attention)
        return mixed.reshape(query.shape), entries

    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, key, value = _run(model, tokens, positions, mix, wanted)
    return hidden, ServingCache(key, value, lengths)


def extend(
    model: ServingModel,
    tokens: Int[Array, "B T"],
    cache: ServingCache,
    seen: int | None = None,
    wanted: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B T D"] | Float[Array, "B 1 D"], ServingCache]:
    """Reads T more tokens of every row: their last hidden states, and the cache with their entries.

    `cache.lengths` stay as they are: how many of the T count is the caller's to say. Attention
    reads the first `seen` slots, the new tokens' among them; all slots where it is None. `wanted`
    as of `prefill`, counted among the T.
    """

    def mix(query, key, value, index):
        before = cache.lengths if query.shape[1] == key.shape[1] else cache.lengths + wanted
        key = write(cache.key[index], key, cache.lengths)
        value = write(cache.value[index], value, cache.lengths)
        return attend(query, key, value, before, seen), (key, value)

    positions = cache.lengths[:, None] + jnp.arange(tokens.shape[1])
    hidden, key, value = _run(model, tokens, positions, mix, wanted)
    return hidden, dataclasses.replace(cache, key=key, value=value)


def logits_of(model: ServingModel, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """In float32."""
    kernel = model.embed if model.unembed is None else model.unembed
    return _product(hidden, kernel, jnp.float32)


def of_one_token(array: Shaped[Array, "B T ..."], index: Int[Array, "B"]) -> Shaped[Array, "B ..."]:
    """What an array of tokens holds of one in each row."""
    index = jnp.expand_dims(index, range(1, array.ndim))
    return jnp.take_along_axis(array, index, axis=1)[:, 0]


def _run(model: ServingModel, tokens, positions, mix, wanted):
    """All layers; `mix` computes attention and says what each leaves in the cache."""
    c = model.config
    rope = rotation(c.rope, c.head_dim, positions)
    x = constrain(jnp.take(model.embed, tokens, axis=0), "batch", None, None)
    cached = []
    for index, layer in enumerate(model.layers):
        query, key, value = _project(c, layer, rms_norm(x, layer.attention_norm, c), rope)
        if wanted is not None and index == c.num_layers - 1:
            x, query = (of_one_token(array, wanted)[:, None] for array in (x, query))
        mixed, entries = mix(query, key, value, index)
        cached.append(entries)
        x = x + _product(mixed.reshape(*x.shape[:2], -1), layer.out)
        branches = _product(rms_norm(x, layer.mlp_norm, c), layer.gate_up)
        gate, up = jnp.split(branches.reshape(*x.shape[:2], layer.branch_blocks, -1), 2, axis=-1)
        inner = (jax.nn.silu(gate) * up).reshape(*x.shape[:2], -1)
        x = x + _product(inner, layer.down)
        x = constrain(x, "batch", None, None)
    keys, values = zip(*cached, strict=True)
    return rms_norm(x, model.final_norm, c), keys, values


def _project(c: ModelConfig, layer: Layer, x: Float[Array, "B T D"], rope):
    projected = _product(x, layer.qkv)
    if layer.qkv_bias is not None:
        projected += layer.qkv_bias
    projected = projected.reshape(*x.shape[:2], c.num_kv_heads, -1, c.head_dim)
    query, key, value = jnp.split(projected, (c.group_size, c.group_size + 1), axis=3)
    if layer.query_norm is not None:
        query, key = rms_norm(query, layer.query_norm, c), rms_norm(key, layer.key_norm, c)
    flat = query.reshape(*query.shape[:2], -1, c.head_dim)
    return (
        rotate(flat, *rope).reshape(query.shape),
        rotate(key[:, :, :, 0], *rope),
        value[:, :, :, 0],
    )


def _product(
    x: Float[Array, "... in"],
    kernel: Float[Array, "out in"] | Quantised,
    dtype: DTypeLike | None = None,
) -> Float[Array, "... out"]:
    """In `dtype`; in that of `x` where there is none."""
    # As a product of two matrices: of more axes, XLA may choose a layout for the kernel that
    # suits what becomes of the result, and copies the kernel into it.
    flat, dtype = x.reshape(-1, x.shape[-1]), dtype or x.dtype
    if isinstance(kernel, Quantised):
        found = product(flat.astype(dtype), kernel)
    elif platform() == "cpu":
        # The kernel first, as it lies: what comes second is packed for the product, which takes
        # longer than a product with a few rows. But for the barrier XLA would turn them round.
        turned = jnp.einsum("oi,ri->or", kernel, flat, preferred_element_type=dtype)
        found = jax.lax.optimization_barrier(turned).T
    else:
        found = jnp.einsum("ri,oi->ro", flat, kernel, preferred_element_type=dtype)
    return found.reshape(*x.shape[:-1], -1)


def rms_norm(
    x: Float[Array, "... C"], scale: Float[Array, "C"], config: ModelConfig
) -> Float[Array, "... C"]:
    """As `model.transformer.RMSNorm`."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + config.norm_epsilon)).astype(x.dtype) * scale
