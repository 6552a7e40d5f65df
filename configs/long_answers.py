"""Refresh over long answers: up to sixteen puzzles in a prompt, and a full model that answers them.

`python -m overfill_jax.main experiment --config=configs/long_answers.py --workdir=DIR` trains the
full model, then a decoder with one handoff and one with many, and asks both under every policy; on
one GPU, or in a night.
"""

from configs._small import pretraining, small


def get_config():
    config = small()
    config.data.train_rows = 4000
    config.data.validation_rows = 20
    config.data.test_rows = 40
    config.data.joined = 16
    config.data.vocab_size = 256
    config.init.config = "configs/long_answers_model.json"
    config.init.tokenizer = "{workdir}/tokenizer"
    config.convert.source = "{workdir}/full_hf"
    config.text.max_prompt_tokens = 640
    config.text.max_total_tokens = 1024
    config.calibrate.source = "{workdir}/data/train.jsonl"
    config.calibrate.rows = "first"
    config.calibrate.batch_size = 8
    config.prune.hidden = 32
    config.prune.intermediate = 64
    config.train.source = "{workdir}/data/train.jsonl"
    config.train.validation = "{workdir}/data/validation.jsonl"
    config.train.packing = True
    config.train.sequence_length = 1024
    config.train.batch_size = 8
    config.train.steps = 1000
    config.train.learning_rate = 3e-3
    config.train.kl_weight = 1.0
    config.evaluate.source = "{workdir}/data/test.jsonl"
    config.evaluate.batch_size = 40
    config.evaluate.max_new_tokens = 448
    config.benchmark.intervals = (1, 4, 16, 64, 256)
    config.benchmark.entropies = (0.3,)
    config.experiment.title = "Refresh over long answers"
    config.experiment.shared = pretraining("train.steps=2500 train.learning_rate=1e-3")
    config.experiment.stages = ("prune", "train", "benchmark benchmark.subject=refresh")
    config.experiment.series = (
        "one handoff: train.handoffs=False",
        "many handoffs: train.handoffs=True",
    )
    config.experiment.measures = (
        "refreshed_loss",
        "refreshed_positions",
        "refreshed_accuracy",
        "refreshed_by_length",
    )
    return config
