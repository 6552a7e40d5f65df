"""What Hugging Face calls each weight, and how it lies there: one table for import and export.

There a linear weight is [out, in] and heads are folded into it; here it is [in, out] with the
heads unfolded, and all layers are stacked.
"""

import dataclasses
import math

import numpy as np

from overfill_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of our arrays, without the leading layer axis, and the tensor it is in Hugging Face.

    Attributes:
      path: keys into the parameters.
      pattern: the name in the file, with `{layer}` if there is one per layer.
      shape: of our array, one layer of it.
      inputs: how many leading axes of `shape` a linear weight sums over; 0 for what is no linear
        weight and lies there as here.
    """

    path: tuple[str, ...]
    pattern: str
    shape: tuple[int, ...]
    inputs: int = 0

    @property
    def stacked(self) -> bool:
        """One tensor per layer."""
        return "{layer}" in self.pattern

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        if self.inputs:
            return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])
        # Only a bias has its heads folded; embedding and norms have none.
        return (math.prod(self.shape),) if self.path[-1] == "bias" else self.shape

    def name(self, layer: int) -> str:
        """The name in the file."""
        return self.pattern.format(layer=layer)

    def from_file(self, source: np.ndarray, target: np.ndarray) -> None:
        """Copies the file's array into ours, casting."""
        if self.inputs:
            _transpose(source, target.reshape(self.file_shape[::-1]))
        else:
            target[...] = source.reshape(self.shape)

    def to_file(self, source: np.ndarray) -> np.ndarray:
        """Our array as the file's, contiguous."""
        if not self.inputs:
            return np.ascontiguousarray(source).reshape(self.file_shape)
        target = np.empty(self.file_shape, source.dtype)
        _transpose(source.reshape(self.file_shape[::-1]), target)
        return target


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every weight of a model, in the order of the computation."""
    c = config
    width, wide = c.hidden_size, c.intermediate_size
    heads = {"query": c.num_heads, "key": c.num_kv_heads, "value": c.num_kv_heads}
    table = [
        Tensor(("embed", "embedding"), "model.embed_tokens.weight", (c.vocab_size, width)),
        _layer("attention_norm/scale", "input_layernorm.weight", (width,)),
    ]
    for ours, count in heads.items():
        theirs, shape = f"self_attn.{ours[0]}_proj", (count, c.head_dim)
        at = f"attention/{ours}"
        table.append(_layer(f"{at}/kernel", f"{theirs}.weight", (width, *shape), inputs=1))
        if c.qkv_bias:
            table.append(_layer(f"{at}/bias", f"{theirs}.bias", shape))
        if c.qk_norm and ours != "value":
            norm = f"self_attn.{ours[0]}_norm.weight"
            table.append(_layer(f"{at}_norm/scale", norm, (c.head_dim,)))
    table += [
        _layer(
            "attention/out/kernel",
            "self_attn.o_proj.weight",
            (c.num_heads, c.head_dim, width),
            inputs=2,
        ),
        _layer("mlp_norm/scale", "post_attention_layernorm.weight", (width,)),
        _layer("mlp/gate/kernel", "mlp.gate_proj.weight", (width, wide), inputs=1),
        _layer("mlp/up/kernel", "mlp.up_proj.weight", (width, wide), inputs=1),
        _layer("mlp/down/kernel", "mlp.down_proj.weight", (wide, width), inputs=1),
        Tensor(("final_norm", "scale"), "model.norm.weight", (width,)),
    ]
    if not c.tied_embeddings:
        shape = (width, c.vocab_size)
        table.append(Tensor(("unembed", "kernel"), "lm_head.weight", shape, inputs=1))
    return table


def _layer(path: str, name: str, shape: tuple[int, ...], inputs: int = 0) -> Tensor:
    return Tensor(("layers", *path.split("/")), f"model.layers.{{layer}}.{name}", shape, inputs)


def _transpose(source: np.ndarray, target: np.ndarray) -> None:
    # A few rows at a time, so that the target's cache lines are filled while they are at hand: six
    # times as fast as at once.
    for row in range(0, len(source), 16):
        target[:, row : row + 16] = source[row : row + 16].astype(target.dtype).T
