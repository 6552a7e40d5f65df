"""The `generate` section of the config, made into what the stages generate and chat work with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from overfill_jax.data.chat import ChatTemplate, encode_prompt, load_template
from overfill_jax.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.placement import serving_mesh
from overfill_jax.inference.refresh import find_refresh
from overfill_jax.inference.sampling import Sampling
from overfill_jax.model.quantised import check_runs
from overfill_jax.weights.folders import check_dtype, check_pair, load_onto, load_scheme


@dataclasses.dataclass(frozen=True)
class Assistant:
    """A generator with the text around it: what turns a conversation into the next answer."""

    generator: Generator
    tokenizer: Tokenizer
    template: ChatTemplate
    sampling: Sampling

    def encode(self, messages: Sequence[dict]) -> list[int]:
        """The prompt of a conversation, up to and with the header of the answer to come."""
        return encode_prompt(messages, self.tokenizer, self.template)


def load_assistant(config: ml_collections.ConfigDict, workdir: Path, rows: int) -> Assistant:
    """Loads the pair that `config.generate` names from its folders in `workdir`.

    Args:
      config: also of the mesh that the pair is spread over.
      workdir: of the run.
      rows: prompts that are answered at once, at most.

    Raises:
      InputError: a folder is missing or broken, the two models do not fit or were not made for each
        other, a setting is out of range.
    """
    c = config.generate
    sampling = Sampling(c.temperature, c.top_k, c.top_p, config.seed)
    refresh = find_refresh(c.refresh, c.refresh_interval, c.refresh_entropy, c.refresh_strictness)
    check_dtype("generate.dtype", c.dtype)
    folder = workdir / c.full
    check_pair(folder, workdir / c.decoder, c.first_token)
    for name in ("full", "decoder"):
        if scheme := load_scheme(workdir / c[name]):
            check_runs(scheme, c.dtype, f"generate.{name}")
    mesh = serving_mesh(config.mesh, rows)
    reader = load_onto(mesh, folder, c.dtype)
    writer = reader if c.decoder == c.full else load_onto(mesh, workdir / c.decoder, c.dtype)
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, reader.config.vocab_size, str(folder))
    generator = Generator(
        reader,
        writer,
        c.first_token,
        tokenizer.stop_ids,
        tokenizer.pad_id,
        tokenizer,
        refresh,
        c.cache,
        mesh,
    )
    return Assistant(generator, tokenizer, load_template(folder), sampling)
