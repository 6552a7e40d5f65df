"""What configs of models that are trained here share: float32, optimiser and pace of small ones."""

import ml_collections

from configs import default


def small() -> ml_collections.ConfigDict:
    """The defaults with these changes."""
    config: ml_collections.ConfigDict = default.get_config()
    config.convert.dtype = "float32"
    config.train.beta2 = 0.98
    config.train.weight_decay = 0.1
    config.train.dtype = "float32"
    config.train.remat = "none"
    config.train.log_every = 50
    config.train.validate_every = 250
    config.train.checkpoint_every = 250
    config.generate.dtype = "float32"
    config.score.dtype = "float32"
    return config


def pretraining(settings: str) -> tuple[str, ...]:
    """Stages that lead from nothing to a full model, trained with these settings."""
    return (
        "data",
        "init",
        f"train train.method=full train.kl_weight=0.0 {settings}",
        "export export.model=baselines/full_tuned export.target=full_hf",
        "convert",
        "calibrate",
    )
