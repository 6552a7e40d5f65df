"""Multi30k (WMT16's multimodal task, German to English), with a full model trained on it.

`bash launch/multi30k.sh FOLDER` runs it; FOLDER holds `train`, `val` and `test_2016_flickr`, each
as lines in `.de` and in `.en`.
"""

from configs._small import pretraining, small


def get_config():
    config = small()
    config.data.train = "{workdir}/text/train.de"
    config.data.validation = "{workdir}/text/val.de"
    config.data.test = "{workdir}/text/test_2016_flickr.de"
    config.data.target = ".en"
    config.data.wording = "German phrase: {line}\nEnglish phrase:"  # as task wmt16 asks
    config.data.vocab_size = 4096
    config.init.config = "configs/multi30k_model.json"
    config.init.tokenizer = "{workdir}/tokenizer"
    config.convert.source = "{workdir}/full_hf"
    config.text.max_prompt_tokens = 96
    config.text.max_total_tokens = 160
    config.calibrate.source = "{workdir}/data"
    config.calibrate.batch_size = 32
    config.prune.hidden = 64
    config.prune.intermediate = 160
    config.train.source = "{workdir}/data"
    config.train.validation = "{workdir}/data"
    config.train.packing = True
    config.train.sequence_length = 128
    config.train.batch_size = 32
    config.train.epochs = 2
    config.train.kl_weight = 1.0
    config.train.learning_rate = 2e-3
    config.evaluate.source = "{workdir}/data"
    config.evaluate.max_new_tokens = 80
    config.score.task = "wmt16"
    config.score.source = "{workdir}/text/test_2016_flickr.de"
    config.score.shots = 0
    config.score.max_new_tokens = 80
    config.experiment.title = "Multi30k, German to English"
    config.experiment.shared = pretraining("train.epochs=12 train.weight_decay=0.5")
    config.experiment.stages = (
        "prune",
        "train",
        "train train.method=pruned",
        "train train.method=scratch",
        "score",
    )
    config.experiment.x = "decode parameters"
    config.experiment.rows = (
        "15 %: prune.hidden=64 prune.intermediate=160",
        "25 %: prune.hidden=96 prune.intermediate=240",
    )
    config.experiment.seeds = (0, 1, 2)
    config.experiment.measures = ("scores", "answer_lengths")
    return config
