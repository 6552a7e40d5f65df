"""The main job: procedural tasks, a tiny full model, and every stage of a real run."""

from configs._small import small

# Of 128 and 320, which `alignment` compares; the decoders read 134 k and 131 k weights a token.
WIDTHS = {"paper": (0.74, 0.81), "aligned": (32, 64)}


def get_config():
    config = small()
    config.data.train_rows = 4000
    config.data.validation_rows = 40
    config.data.test_rows = 60
    config.convert.source = "launch/quickstart_model"
    config.text.max_prompt_tokens = 96
    config.text.max_total_tokens = 160
    config.calibrate.source = "{workdir}/data/train.jsonl"
    config.calibrate.rows = "first"
    config.calibrate.batch_size = 64
    config.prune.hidden, config.prune.intermediate = WIDTHS["aligned"]
    config.train.source = "{workdir}/data/train.jsonl"
    config.train.validation = "{workdir}/data/validation.jsonl"
    config.train.batch_size = 32
    config.train.steps = 600
    config.train.learning_rate = 3e-3
    config.train.kl_weight = 1.0
    config.train.validate_every = 200
    config.train.checkpoint_every = 200
    config.generate.prompts = "{workdir}/data/test.jsonl"
    config.generate.max_new_tokens = 64
    config.evaluate.source = "{workdir}/data/test.jsonl"
    config.evaluate.batch_size = 150
    config.evaluate.max_new_tokens = 64
    config.benchmark.groups = (0, 16)
    config.export.allow_illegal_widths = False
    config.experiment.shared = ("data", "convert", "calibrate")
    config.experiment.full_tokens = 5_868_523  # 5,500 steps of 32 rows, of 33.3 tokens on average
    return config
