"""The procedural tasks at a larger size: a full model of 31M parameters, for one GPU or a night.

`python -m overfill_jax.main experiment --config=configs/procedural_30m.py --workdir=DIR` trains the
full model, then for each of three seeds a decoder and the baselines. The full model sees 160,000
examples: after 48,000 it has learnt two of the five tasks, and there is nothing yet to hand over.
"""

from configs._small import pretraining, small


def get_config():
    config = small()
    config.data.train_rows = 20_000
    config.data.validation_rows = 100
    config.data.test_rows = 200
    config.data.vocab_size = 256
    config.init.config = "configs/procedural_30m_model.json"
    config.init.tokenizer = "{workdir}/tokenizer"
    config.convert.source = "{workdir}/full_hf"
    config.text.max_prompt_tokens = 128
    config.text.max_total_tokens = 192
    config.calibrate.source = "{workdir}/data/train.jsonl"
    config.calibrate.rows = "first"
    config.calibrate.batch_size = 64
    config.prune.hidden = 128
    config.prune.intermediate = 384
    config.train.source = "{workdir}/data/train.jsonl"
    config.train.validation = "{workdir}/data/validation.jsonl"
    config.train.packing = True
    config.train.sequence_length = 512
    config.train.batch_size = 2
    config.train.steps = 1000
    config.train.learning_rate = 1e-3
    config.train.kl_weight = 1.0
    config.evaluate.source = "{workdir}/data/test.jsonl"
    config.evaluate.batch_size = 250
    config.evaluate.max_new_tokens = 64
    config.experiment.title = "Procedural tasks, full model of 31M parameters"
    config.experiment.shared = pretraining("train.steps=8000 train.learning_rate=1e-3")
    config.experiment.seeds = (0, 1, 2)
    config.experiment.systems = ("full", "two_stage", "pruned_tuned", "scratch", "pruned_untrained")
    config.experiment.measures = ("accuracy", "families", "gap", "relative_gain", "positions")
    return config
