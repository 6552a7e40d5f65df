"""GSM8K (grade-school maths, worked answers), with a full model trained on it.

`bash launch/gsm8k.sh FOLDER` runs it; FOLDER holds the data set's `train.jsonl` and `test.jsonl`
(columns `question` and `answer`). So small a model hardly gets a question right: what can be
compared is the loss on the worked answers.
"""

from configs._small import pretraining, small


def get_config():
    config = small()
    config.data.train = "{workdir}/text/train.jsonl"
    config.data.test = "{workdir}/text/test.jsonl"
    config.data.vocab_size = 4096
    config.text.prompt_column = "question"
    config.text.response_column = "answer"
    config.text.max_prompt_tokens = 256
    config.text.max_total_tokens = 512
    config.init.config = "configs/gsm8k_model.json"
    config.init.tokenizer = "{workdir}/tokenizer"
    config.convert.source = "{workdir}/full_hf"
    config.calibrate.source = "{workdir}/data"
    config.calibrate.batch_size = 32
    config.prune.hidden = 64
    config.prune.intermediate = 160
    config.train.source = "{workdir}/data"
    config.train.validation_rows = 256
    config.train.packing = True
    config.train.sequence_length = 512
    config.train.batch_size = 8
    config.train.epochs = 2
    config.train.kl_weight = 1.0
    config.train.learning_rate = 2e-3
    config.evaluate.source = "{workdir}/data"
    config.evaluate.match = "number"
    config.evaluate.max_new_tokens = 256
    config.experiment.title = "GSM8K"
    config.experiment.shared = pretraining("train.epochs=6")
    config.experiment.measures = ("loss", "positions", "accuracy")
    return config
