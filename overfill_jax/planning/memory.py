"""Memory of a chip during a train step, each part laid out by the table of `model/layout.py`.

What stays from step to step is exact. What comes and goes is counted at the moments where the
compiler's programs hold most: while the losses are differentiated, or in one layer's backward
pass. How often an array exists at such a moment is the compiler's choice; the factors here are
those of its programs for v5e, v5p and v6e slices (libtpu 0.0.42).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from overfill_jax.model.config import ModelConfig
from overfill_jax.model.layout import partition
from overfill_jax.model.transformer import abstract, logical_axes
from overfill_jax.planning.workload import Workload

# Logical axes and shape of an array.
Weight = tuple[tuple[str | None, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip, by part.

    Attributes:
      parts: name to bytes; their sum is the peak.
      replicated: axes that the mesh does not divide, in words.
    """

    parts: dict[str, int]
    replicated: tuple[str, ...]

    @property
    def total(self) -> int:
        """At the peak of a step."""
        return sum(self.parts.values())


def step_memory(work: Workload) -> Memory:
    """Memory of a chip at the peak of a step."""
    frozen, undivided = weight_bytes(work.full, work.frozen_dtype, work.mesh)
    masters, more = weight_bytes(work.decoder, "float32", work.mesh)
    losses, layer = _losses(work), _layer(work)
    at_peak = "logits chunk, unembedding" if losses > layer else "one layer's backward pass"
    return Memory(
        parts={
            "frozen full weights": frozen,
            "float32 masters": masters,
            "Adam moments": 2 * masters,
            # Those of a micro-batch, and their sum.
            "gradients": masters * min(work.setup.accumulation, 2),
            "cache": cache_bytes(work),
            "saved activations": saved_bytes(work),
            at_peak: max(losses, layer),
        },
        replicated=tuple(sorted({*undivided, *more})),
    )


def weight_bytes(config: ModelConfig, dtype: str, mesh: AbstractMesh) -> tuple[int, set[str]]:
    """Bytes of one chip's part of a model's weights, and the axes that are not divided."""
    total, replicated = 0, set()
    for names, shape in weight_axes(config):
        spec, undivided = partition(names, shape, mesh)
        total += math.prod(NamedSharding(mesh, spec).shard_shape(shape))
        replicated.update(undivided)
    return jnp.dtype(dtype).itemsize * total, replicated


def weight_axes(config: ModelConfig) -> list[Weight]:
    """Every array of a model's weights."""
    axes = jax.tree.leaves(logical_axes(config), is_leaf=lambda x: isinstance(x, PartitionSpec))
    weights = jax.tree.leaves(abstract(config, config.dtype).params)
    return [(tuple(names), one.shape) for names, one in zip(axes, weights, strict=True)]


def cache_bytes(work: Workload) -> int:
    """Keys and values of every slot of a chip's rows in a micro-batch."""
    c = work.full
    slots = _rows(work) * work.row_slots
    kv_heads = _part(work, c.num_kv_heads)
    return 2 * c.num_layers * slots * kv_heads * c.head_dim * _width(work)


def saved_bytes(work: Workload) -> int:
    """What the decoder's forward pass keeps of all layers for the backward pass."""
    c = work.decoder
    stream, inner = c.hidden_size, _part(work, c.intermediate_size)
    mixed = _part(work, c.num_heads) * c.head_dim
    projected = mixed + 2 * _part(work, c.num_kv_heads) * c.head_dim
    kept = {
        "full": stream,
        "dots": 3 * stream + projected + 2 * inner,
        # Before and after norms, rotation and the gate's nonlinearity.
        "none": 6 * stream + 2 * projected + mixed + 6 * inner,
    }[work.setup.remat]
    return c.num_layers * _rows(work) * work.answer_slots * kept * _width(work)


def _losses(work: Workload) -> int:
    """During the losses: a chunk's logits, the gathered unembedding and its float32 gradient."""
    c, terms = work.decoder, work.setup.objective.terms
    vocabulary = _part(work, c.vocab_size)
    logits = 4 * _rows(work) * min(terms.chunk, work.answer_slots) * vocabulary
    total = logits + (_width(work) + 4) * vocabulary * c.hidden_size
    if terms.kl_weight:
        hidden = _rows(work) * work.answer_slots * work.full.hidden_size
        total += logits + _width(work) * (vocabulary * work.full.hidden_size + hidden)
    return total


def _layer(work: Workload) -> int:
    """In the backward pass of one decoder layer: its weights, their gradients, activations."""
    c = work.decoder
    heads, kv_heads = _part(work, c.num_heads), _part(work, c.num_kv_heads)
    inner = _part(work, c.intermediate_size)
    weights = c.hidden_size * (2 * (heads + kv_heads) * c.head_dim + 3 * inner)
    wide = 4 * c.hidden_size + 2 * heads * c.head_dim + 4 * inner
    tokens = _rows(work) * work.answer_slots
    return (2 * weights + tokens * wide) * _width(work)


def _rows(work: Workload) -> int:
    """Of a micro-batch on one chip."""
    parts = work.mesh.shape["data"] * work.mesh.shape["fsdp"]
    return work.rows // (work.setup.accumulation * parts)


def _part(work: Workload, size: int) -> int:
    """What is left on one chip of an axis that the tensor axis splits, if it divides it."""
    parts = work.mesh.shape["tensor"]
    return size if size % parts else size // parts


def _width(work: Workload) -> int:
    return jnp.dtype(work.decoder.dtype).itemsize
