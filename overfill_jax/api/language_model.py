"""A model in memory with its tokenizer: loaded from a folder, saved and exported to one."""

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from overfill_jax.data.chat import ChatTemplate, load_template
from overfill_jax.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.mesh import as_ours
from overfill_jax.model.quantised import ONLY_ANSWERS, scheme_of
from overfill_jax.model.transformer import Model
from overfill_jax.weights.folders import (
    fingerprint,
    load_any_model,
    load_fingerprint,
    load_onto,
    load_origin,
    save_model,
)
from overfill_jax.weights.hugging_face_export import export_model
from overfill_jax.weights.origin import Origin


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with the tokenizer and the chat template that it came with.

    >>> full.tokenizer.decode(full.tokenizer.encode("Ann has 3."))
    'Ann has 3.'
    >>> full.config.hidden_size, full.params["embed"]["embedding"].shape
    (128, (256, 128))

    Attributes:
      model: config and weights.
      folder: where tokenizer and template lie.
      tokenizer: text to tokens and back.
      template: conversations to text.
      fingerprint: by which the model is recognised.
      origin: of a decoder, the full model that it belongs to and how it was trained.
    """

    model: Model
    folder: Path
    tokenizer: Tokenizer
    template: ChatTemplate
    fingerprint: str
    origin: Origin | None

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def params(self) -> dict:
        return self.model.params


def load(folder: str | Path, dtype: str | None = None, mesh: Mesh | None = None) -> LanguageModel:
    """Loads a Hugging Face folder or one of ours (a workdir's `full`, `pruned`, `decoder`).

    One with weights in integers (of the stage `quantise`) answers, and is for nothing else.

    >>> overfill_jax.load("launch/quickstart_model", dtype="bfloat16").config.dtype
    'bfloat16'
    >>> import jax
    >>> mesh = jax.make_mesh((1, 1), ("data", "tensor"))  # copies, and parts of each
    >>> spread = overfill_jax.load("launch/quickstart_model", mesh=mesh)

    Args:
      folder: with config.json, weights and tokenizer.
      dtype: of weights and computation; as stored where not given.
      mesh: devices that share the model, with axes `data` (parts of a batch, each with whole copies
        of the weights) and `tensor` (parts of heads, MLP and vocabulary); pairs answer there, too.
        The first device alone, if not given.

    Raises:
      InputError: names the file, and what is missing, broken or not understood in it; a mesh with
        other axes.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    if mesh is None:
        model = load_any_model(folder, dtype)
    else:
        model = load_onto(as_ours(mesh), folder, dtype)
    check_vocabulary(tokenizer, model.config.vocab_size, str(folder))
    identity = load_fingerprint(folder) or fingerprint(model)
    template, origin = load_template(folder), load_origin(folder)
    return LanguageModel(model, folder, tokenizer, template, identity, origin)


def check_not_quantised(name: str, model: LanguageModel) -> None:
    """Refuses weights in integers, where a product alone does not do.

    Raises:
      InputError: `name` wanted others.
    """
    if scheme_of(model.params) is not None:
        raise InputError(f"{name}: {model.folder} {ONLY_ANSWERS}")


def save(model: LanguageModel, folder: str | Path) -> None:
    """Writes a folder that `load` and the stages read.

    >>> overfill_jax.save(decoder, "runs/mine/pruned")
    >>> overfill_jax.load("runs/mine/pruned").fingerprint == decoder.fingerprint
    True
    """
    known_as = model.fingerprint if scheme_of(model.params) else None
    save_model(Path(folder), model.model, model.folder, model.origin, known_as)


def export(
    model: LanguageModel,
    folder: str | Path,
    allow_illegal_widths: bool = False,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a Hugging Face folder.

    >>> overfill_jax.export(decoder, "hf_folder")
    >>> overfill_jax.load("hf_folder").config == decoder.config
    True

    Raises:
      InputError: a width that transformers refuses to load, with the next legal ones; unless
        `allow_illegal_widths`. Weights in integers.
    """
    check_not_quantised("export", model)
    export_model(model.model, Path(folder), model.folder, shard_bytes, allow_illegal_widths)
