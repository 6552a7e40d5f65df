"""What the configs of real models share: the recipe of the paper, on rows packed with examples.

Instruction data goes into `{workdir}/data/train.jsonl` (the paper: OpenHermes 2.5), questions for
`evaluate` and the experiments into `{workdir}/data/test.jsonl`, calibration text into
`{workdir}/data/calibration.txt` (the paper: WikiText).
"""

import ml_collections

from configs import default

Width = float | int  # share removed, or width kept


def recipe(source: str, shape: str, widths: dict[str, tuple[Width, Width]], name: str):
    """The config of one model.

    Args:
      source: its Hugging Face folder.
      shape: its config.json in `configs/shapes`, for plans without weights.
      widths: by name, what `prune` does to the hidden and the MLP width.
      name: of the widths chosen.
    """
    if name not in widths:
        raise ValueError(f"found widths {name!r}, expected one of {', '.join(widths)}")
    config: ml_collections.ConfigDict = default.get_config()
    config.convert.source = source
    config.plan.model = f"configs/shapes/{shape}.json"
    config.calibrate.source = "{workdir}/data/calibration.txt"
    config.prune.hidden, config.prune.intermediate = widths[name]
    config.train.source = "{workdir}/data/train.jsonl"
    config.evaluate.source = "{workdir}/data/test.jsonl"
    config.mesh.data, config.mesh.fsdp = 1, -1
    # The paper's 64 conversations a step, three to four of which share a row.
    config.train.packing = True
    config.train.batch_size = 16
    config.experiment.shared = ("convert", "calibrate")
    return config
