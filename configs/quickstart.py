"""The main job: procedural tasks, a tiny full model, and everything a user does with a real one."""

from configs import default


def get_config():
    config = default.get_config()
    config.data.train_rows = 6000
    config.data.validation_rows = 60
    config.data.test_rows = 60
    config.convert.source = "launch/quickstart_model"
    config.convert.dtype = "float32"
    config.text.max_prompt_tokens = 96
    config.text.max_total_tokens = 160
    config.calibrate.source = "runs/quickstart/data/train.jsonl"
    config.calibrate.longest = False
    config.calibrate.batch_size = 64
    return config
