"""The shape of Llama-3.2-1B with random weights: what convert to generate cost at true size."""

from configs import default


def get_config():
    config = default.get_config()
    config.data.train_rows = 20
    config.data.validation_rows = 1
    config.data.test_rows = 1
    config.init.config = "configs/true_shape_model.json"
    config.init.tokenizer = "launch/quickstart_model"
    config.init.dtype = "bfloat16"
    config.convert.source = "{workdir}/random_hf"
    config.calibrate.source = "{workdir}/data/train.jsonl"
    config.calibrate.samples = 16
    config.calibrate.length = 64
    config.calibrate.batch_size = 4
    config.prune.hidden = 0.5
    config.prune.intermediate = 0.5
    config.prune.multiple_of = 128
    config.generate.decoder = "pruned"
    config.generate.prompts = "{workdir}/data/test.jsonl"
    config.generate.max_new_tokens = 16
    config.export.model = "full"
    config.export.target = "random_hf"
    config.export.shard_bytes = 1_000_000_000
    return config
