"""Seconds of one forward pass, by the bytes that it moves and the FLOPs that it takes.

The products with the weights, the logits and attention follow each other; each takes as long as its
FLOPs or its bytes, whichever take longer. Attention reads what is filled of the cache; no prompt is
padded, and all of its tokens go through all of the last layer; activations stay on the chip.
"""

import dataclasses
import math

import numpy as np

from overfill_jax.chips import Chip
from overfill_jax.model import flops
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.size import parameters_by_part
from overfill_jax.planning.efficiency import PERFECT, Efficiency

# Lengths may be arrays: whole curves are reckoned at once.
Number = float | int | np.ndarray | np.generic

# Bytes of a number. Norms, biases, and an embedding that tokens are looked up in, stay in bfloat16.
BYTES = {"bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
# Smaller numbers than bfloat16 share scales of SCALE bytes: the weights of an output channel, all
# of them or each group; in the cache every key and value of a head.
SCALE = 2


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips of one kind that hold and compute a pass together, as a tensor axis.

    Attributes:
      chip: each of them.
      chips: their number.
      reached: what each is assumed to reach.
    """

    chip: Chip
    chips: int
    reached: Efficiency

    @property
    def perfect(self) -> "Machine":
        """The same as its vendor states it."""
        return dataclasses.replace(self, reached=PERFECT)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model as each chip of a machine holds it.

    Attributes:
      part: the shape of what a chip holds: its heads, its part of MLP and vocabulary.
      weights, cache: what they are stored in.
      products, pair, logits: FLOPs of a token in the layers' products, of a pair of query and key
        in all layers, and of a token's logits.
      layers, table: bytes of the layers' weights and of the unembedding, scales included.
      stored: bytes of all weights.
      cached: bytes of one token in the cache.
      sums: over the chips, in one pass.
      whole: what the chips do not divide, in words.
    """

    part: ModelConfig
    weights: str
    cache: str
    products: float
    pair: float
    logits: float
    layers: float
    table: float
    stored: float
    cached: float
    sums: int
    whole: tuple[str, ...]


def load(config: ModelConfig, weights: str, cache: str, chips: int, group: int = 0) -> Loaded:
    """A model on so many chips, which divide its kv heads; `group` as of `quantised.Scheme`."""
    part, whole = _divided(config, chips)
    by_name = parameters_by_part(part)
    query, pair = part.num_heads * part.head_dim, 2 * part.num_kv_heads * part.head_dim
    matrices = (
        (part.hidden_size, query + pair),
        (query, part.hidden_size),
        (part.hidden_size, 2 * part.intermediate_size),
        (part.intermediate_size, part.hidden_size),
    )
    multiplied = part.num_layers * sum(inputs * outputs for inputs, outputs in matrices)
    added = by_name["attention"] + by_name["mlp"] + by_name["norms"] - multiplied
    packed = part.num_layers * sum(packed_bytes(*matrix, weights, group) for matrix in matrices)
    layers = packed + BYTES["bfloat16"] * added
    table = packed_bytes(part.hidden_size, part.vocab_size, weights, group)
    # Integers only unembed: a tied embedding stays as it is beside them.
    one_table = part.tied_embeddings and weights == "bfloat16"
    looked_up = 0.0 if one_table else BYTES["bfloat16"] * by_name["embed"]
    head = part.head_dim * BYTES[cache] + (0 if cache == "bfloat16" else SCALE)
    return Loaded(
        part=part,
        weights=weights,
        cache=cache,
        products=flops.products(part, 1),
        pair=flops.attention(part, 1),
        logits=flops.logits(part, 1),
        layers=layers,
        table=table,
        stored=layers + table + looked_up,
        cached=2 * part.num_layers * part.num_kv_heads * head,
        sums=_sums(config, part),
        whole=whole,
    )


def packed_bytes(inputs: int, outputs: int, weights: str, group: int) -> float:
    """Of a matrix, its scales included: one for so many inputs of an output, 0 for all of them."""
    scales = 0 if weights == "bfloat16" else math.ceil(inputs / (group or inputs))
    return outputs * (inputs * BYTES[weights] + scales * SCALE)


def _divided(config: ModelConfig, chips: int) -> tuple[ModelConfig, tuple[str, ...]]:
    """A chip's part, and what it holds whole since `chips` does not divide it."""
    names = ("num_heads", "num_kv_heads", "intermediate_size", "vocab_size")
    sizes = {name: getattr(config, name) for name in names}
    split = {name: size // chips for name, size in sizes.items() if not size % chips}
    whole = tuple(f"{name} {size}" for name, size in sizes.items() if name not in split)
    return dataclasses.replace(config, **split), whole


def _sums(config: ModelConfig, part: ModelConfig) -> int:
    """Behind attention and MLP of every layer, and over the vocabulary, where these are split."""
    names = ("num_heads", "intermediate_size", "vocab_size")
    heads, mlp, vocabulary = (getattr(part, name) < getattr(config, name) for name in names)
    return config.num_layers * (heads + mlp) + vocabulary


def pass_seconds(
    model: Loaded, machine: Machine, batch: int, tokens: Number, context: Number, answers: bool
) -> Number:
    """One pass over new tokens of every row.

    Args:
      model: that computes.
      machine: that it is loaded on.
      batch: rows.
      tokens: new ones of a row.
      context: tokens that the last of them sees, itself included.
      answers: logits follow the last token of each row.
    """
    part, chip, reached = model.part, machine.chip, machine.reached
    read, multiply = chip.bandwidth * reached.weights[model.weights], chip.flops * reached.products
    pairs = tokens * (context - (tokens - 1) / 2)
    products = np.maximum(batch * tokens * model.products / multiply, model.layers / read)
    attention = np.maximum(
        batch * pairs * model.pair / (chip.flops * reached.attention),
        batch * context * model.cached / (chip.bandwidth * reached.cache),
    )
    logits = np.maximum(batch * model.logits / multiply, model.table / read)
    stream = batch * tokens * part.hidden_size * BYTES["bfloat16"]
    sums = reached.reduction + 2 * (1 - 1 / machine.chips) * stream / chip.links
    beside = reached.step + part.num_layers * reached.layer + model.sums * sums
    return products + attention + answers * logits + beside
