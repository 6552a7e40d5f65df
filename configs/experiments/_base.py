"""What the experiments share: the config of a model and its data, with the cells put into it."""

import importlib

import ml_collections

# The paper's shares of channels to remove.
RATIOS = tuple(f"{r}: prune.hidden={r} prune.intermediate={r}" for r in (0.25, 0.45, 0.7))


def experiment(base: str, **settings) -> ml_collections.ConfigDict:
    """The config `configs/BASE.py` (or `configs/BASE.py:WIDTHS`) with an experiment's settings."""
    name, _, argument = base.partition(":")
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(*filter(None, [argument]))
    config.experiment.update(settings)
    return config
