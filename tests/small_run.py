"""A tiny run of all stages: the config that takes seconds, for tests of many rooms."""

import json
from pathlib import Path

import ml_collections

from configs import default
from overfill_jax.stages import run_stage

SHAPE = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 2,
}
STEPS = 6


def make_config(workdir: Path) -> ml_collections.ConfigDict:
    config = default.get_config()
    config.data.train_rows, config.data.validation_rows, config.data.test_rows = 30, 2, 2
    config.data.vocab_size = 256
    config.init.config = str(workdir / "shape.json")
    config.init.tokenizer = str(workdir / "tokenizer")
    config.calibrate.source = str(workdir / "data/train.jsonl")
    config.calibrate.samples, config.calibrate.length = 20, 48
    config.prune.hidden, config.prune.intermediate = 0.5, 0.5
    config.train.source = str(workdir / "data/train.jsonl")
    config.train.validation = str(workdir / "data/validation.jsonl")
    config.train.batch_size, config.train.steps = 8, STEPS
    config.train.learning_rate = 1e-2
    config.train.dtype, config.train.remat = "float32", "none"
    config.train.log_every = 1
    config.train.validate_every, config.train.checkpoint_every = 4, 2
    config.train.keep_last = 3
    config.generate.prompts = str(workdir / "data/test.jsonl")
    config.generate.output = str(workdir / "answers.jsonl")
    config.generate.max_new_tokens, config.generate.dtype = 8, "float32"
    config.evaluate.source = str(workdir / "data/test.jsonl")
    config.evaluate.max_new_tokens = 8
    config.export.allow_illegal_widths = True
    return config


def run_to_decoder(workdir: Path) -> None:
    """Every stage from data to the trained decoder, in an empty workdir."""
    (workdir / "shape.json").write_text(json.dumps(SHAPE))
    config = make_config(workdir)
    for stage in ("data", "init", "calibrate", "prune", "train"):
        run_stage(stage, config, workdir)
