"""OverFill in JAX: a full model reads the prompt, its width-pruned copy writes the answer.

>>> import overfill_jax
>>> full = overfill_jax.load("launch/quickstart_model")
>>> importance = overfill_jax.calibrate(full, ["Ann has 3.", "Bob has 4 and wins 5."])
>>> decoder = overfill_jax.prune(full, importance, hidden=0.5, intermediate=0.5)
>>> pair = overfill_jax.TwoStage(full, decoder)
>>> answers = pair.generate(["How many has Ann?"], max_new_tokens=8)
>>> overfill_jax.export(decoder, "hf_folder")

The examples of the single names go on from these lines. `run_stage` runs a stage of the command
line, training among them, from a notebook.
"""

from overfill_jax.api.language_model import LanguageModel, export, load, save
from overfill_jax.api.pair import TwoStage
from overfill_jax.api.pruning import calibrate, prune
from overfill_jax.errors import InputError
from overfill_jax.inference.refresh import Refresh
from overfill_jax.model.cache import KVCache
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.handoff import Handoff
from overfill_jax.pruning.importance import Importance
from overfill_jax.stages import run_stage

__all__ = [
    "Handoff",
    "Importance",
    "InputError",
    "KVCache",
    "LanguageModel",
    "ModelConfig",
    "Refresh",
    "TwoStage",
    "calibrate",
    "export",
    "load",
    "prune",
    "run_stage",
    "save",
]
