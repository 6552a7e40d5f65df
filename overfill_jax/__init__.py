"""OverFill in JAX: a full model reads the prompt, its width-pruned copy writes the answer.

    full = overfill_jax.load("Llama-3.2-3B-Instruct")
    importance = overfill_jax.calibrate(full, texts)
    decoder = overfill_jax.prune(full, importance, hidden=0.45, intermediate=0.45)
    pair = overfill_jax.TwoStage(full, decoder)
    answers = pair.generate(["What is a cache?"], max_new_tokens=128)
    overfill_jax.export(decoder, "hf_folder")

`run_stage` runs a stage of the command line (training among them) from a notebook.
"""

from overfill_jax.api import (
    LanguageModel,
    TwoStage,
    calibrate,
    export,
    load,
    prune,
    save,
)
from overfill_jax.errors import InputError
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig
from overfill_jax.pruning.importance import Importance
from overfill_jax.stages import run_stage

__all__ = [
    "Importance",
    "InputError",
    "KVCache",
    "LanguageModel",
    "ModelConfig",
    "TwoStage",
    "calibrate",
    "export",
    "load",
    "prune",
    "run_stage",
    "save",
]
