"""GSM8K (grade-school maths, worked answers) with a small full model trained from scratch on it.

`bash launch/gsm8k.sh FOLDER` runs it; FOLDER holds the data set's `train.jsonl` and `test.jsonl`
(columns `question` and `answer`) and `llama2.model`, the tokenizer of Llama 2.
"""

from configs._small import small


def get_config():
    config = small()
    config.init.config = "configs/gsm8k_model.json"
    config.init.tokenizer = "{workdir}/data/llama2.model"
    config.convert.source = "{workdir}/full_hf"
    config.text.prompt_column = "question"
    config.text.response_column = "answer"
    config.text.max_prompt_tokens = 256
    config.text.max_total_tokens = 512
    config.calibrate.source = "{workdir}/data/train.jsonl"
    config.calibrate.samples = 256
    config.calibrate.batch_size = 16
    config.prune.hidden = 0.5
    config.prune.intermediate = 0.5
    config.prune.multiple_of = 64
    config.train.source = "{workdir}/data/train.jsonl"
    config.train.validation_rows = 128
    config.train.packing = True
    config.train.sequence_length = 1024
    config.train.batch_size = 4
    config.train.steps = 60
    config.train.learning_rate = 1e-3
    config.generate.max_new_tokens = 192
    config.evaluate.source = "{workdir}/data/test.jsonl"
    config.evaluate.rows = 64
    config.evaluate.match = "number"
    config.evaluate.batch_size = 16
    config.evaluate.max_new_tokens = 192
    return config
