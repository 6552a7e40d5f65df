"""How the full model of the quickstart was made: `bash launch/quickstart.sh --from-scratch`."""

from configs._small import small


def get_config():
    config = small()
    config.data.train_rows = 20_000
    config.data.validation_rows = 100
    config.data.test_rows = 100
    config.data.vocab_size = 256
    config.init.config = "launch/quickstart_model/config.json"
    config.init.tokenizer = "{workdir}/tokenizer"
    config.text.max_prompt_tokens = 128
    config.text.max_total_tokens = 192
    config.train.method = "full"
    config.train.source = "{workdir}/data/train.jsonl"
    config.train.validation = "{workdir}/data/validation.jsonl"
    config.train.validation_rows = 500
    config.train.batch_size = 32
    config.train.steps = 5500
    config.train.learning_rate = 1e-3
    config.train.log_every = 100
    config.train.validate_every = 500
    config.train.checkpoint_every = 500
    config.evaluate.source = "{workdir}/data/test.jsonl"
    config.evaluate.batch_size = 250
    config.evaluate.max_new_tokens = 64
    config.export.model = "full"
    return config
