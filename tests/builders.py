"""Small models and batches that many tests start from."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from overfill_jax.data.batches import Batch, Piece, lay_out
from overfill_jax.model.config import ModelConfig, Rope
from overfill_jax.model.transformer import Model, abstract

CONFIG = ModelConfig(
    model_type="qwen3",
    vocab_size=41,
    hidden_size=24,
    intermediate_size=40,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope=Rope(10_000.0),
    norm_epsilon=1e-5,
    max_position=128,
    tied_embeddings=False,
    qkv_bias=True,
    qk_norm=True,
)


def make_model(seed: int = 0, **changes) -> Model:
    """Random weights, every bias and norm scale included, so that no error hides in a 0 or 1.

    Drawn by numpy: compiling the draws of `init` takes longer than most tests.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.asarray(1 + 0.2 * noise if path[-1].key == "scale" else 0.2 * noise)

    shapes = abstract(dataclasses.replace(CONFIG, **changes), "float32")
    params = jax.tree_util.tree_map_with_path(draw, shapes.params)
    return dataclasses.replace(shapes, params=params)


def random_model(seed: int = 0, **changes) -> Model:
    """Weights by numpy, which compiles nothing; so large that answers settle on no token."""
    rng = np.random.default_rng(seed)
    shapes = abstract(dataclasses.replace(CONFIG, **changes), "float32")
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


def texts_of(rows: Iterable[dict[str, str]]) -> list[str]:
    """Prompts and responses of instruction rows, which a tokenizer is trained on."""
    return [row[key] for row in rows for key in ("prompt", "response")]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Ragged rows of one prompt and one answer, right-padded with 0."""

    prompt: np.ndarray
    prompt_lengths: np.ndarray
    answer: np.ndarray
    answer_lengths: np.ndarray

    def pieces(self) -> list[Piece]:
        """Prompt, answer and index of every row, without padding."""
        lengths = zip(self.prompt_lengths, self.answer_lengths, strict=True)
        return [
            (self.prompt[row, :p], self.answer[row, :r], row) for row, (p, r) in enumerate(lengths)
        ]

    def batch(self) -> Batch:
        """The same as a batch, one example a row."""
        rows = [[piece] for piece in self.pieces()]
        return lay_out(rows, self.prompt.shape[1], self.answer.shape[1])


def make_rows(seed: int = 0, rows: int = 4, prompt: int = 12, answer: int = 7) -> Rows:
    """Random tokens in rows of random lengths."""
    rng = np.random.default_rng(seed)
    prompt_lengths = rng.integers(1, prompt + 1, rows, np.int32)
    answer_lengths = rng.integers(2, answer + 1, rows, np.int32)

    def padded(lengths, width):
        tokens = rng.integers(1, CONFIG.vocab_size, (rows, width))
        return np.where(np.arange(width) < lengths[:, None], tokens, 0).astype(np.int32)

    return Rows(
        padded(prompt_lengths, prompt), prompt_lengths, padded(answer_lengths, answer),
        answer_lengths,
    )  # fmt: skip
