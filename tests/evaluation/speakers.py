"""A pair of models that speak a few words, a config to ask them with, and what they are asked."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tokenizers

from configs.default import get_config
from overfill_jax.data.tokenizers import load_tokenizer
from overfill_jax.evaluation.lm_eval import OverfillLM
from overfill_jax.inference.generation import Generator
from overfill_jax.model.transformer import Model
from overfill_jax.weights.folders import save_model
from tests.builders import random_model

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
LETTERS = (" A", " B", " C", " D")
# All that the models ever write.
GOLDS = ("2", "10", "18")
SAID = (*(f"The final answer is {gold}" for gold in GOLDS), *LETTERS, ".")


def make_tokenizer(folder: Path) -> None:
    """Bytes, and what the models write in one token each."""
    tokens = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(["the question and the answer"], trainer)
    tokens.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in SAID])
    tokens.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def make_speaker(seed: int, folder: Path, **changes: int) -> Model:
    """Random weights, of which only tokens of SAID and the end ever come out on top."""
    tokenizer = load_tokenizer(folder)
    allowed = [token for text in SAID for token in tokenizer.encode(text)] + [
        *tokenizer.encode("<|end|>")
    ]
    assert len(allowed) == len(SAID) + 1
    shape = {"vocab_size": tokenizer.vocab_size, "max_position": 4096, "num_layers": 2}
    model = random_model(seed, **shape, **changes)
    kernel = np.array(model.params["unembed"]["kernel"])
    others = np.setdiff1d(np.arange(kernel.shape[1]), allowed)
    kernel[:, others] = 0
    params = model.params | {"unembed": {"kernel": jnp.asarray(kernel)}}
    return dataclasses.replace(model, params=params)


def make_workdir(folder: Path) -> Path:
    """A full model and a smaller decoder."""
    make_tokenizer(folder)
    for name, seed, width in (("full", 12, 24), ("decoder", 13, 16)):
        model = make_speaker(seed, folder, hidden_size=width)
        save_model(folder / name, model, tokenizer_source=folder)
    return folder


def make_config() -> ml_collections.ConfigDict:
    """In float32, four rows at a time."""
    config = get_config()
    config.generate.dtype = config.score.dtype = "float32"
    config.harness.batch_size = config.score.batch_size = 4
    return config


def count_batches(monkeypatch: pytest.MonkeyPatch, stop_before: int = 0) -> list[int]:
    """The sizes of all that the models are asked; they fail before that many batches are done."""
    asked = []
    write, judge = Generator.grow, OverfillLM._judge

    def note(size):
        asked.append(size)
        if len(asked) == stop_before:
            raise KeyboardInterrupt

    def grow(self, drafts, *rest):
        note(len(drafts))
        return write(self, drafts, *rest)

    def judged(self, pairs):
        note(len(pairs))
        return judge(self, pairs)

    monkeypatch.setattr(Generator, "grow", grow)
    monkeypatch.setattr(OverfillLM, "_judge", judged)
    return asked
