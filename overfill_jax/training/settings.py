"""Settings of a run: which are refused, and which make it another run than the one begun."""

from pathlib import Path

import ml_collections

from overfill_jax import distributed, files
from overfill_jax.data.loader import TrainingLoader, ValidationLoader
from overfill_jax.errors import InputError
from overfill_jax.model.transformer import REMAT_POLICIES
from overfill_jax.two_stage import FIRST_TOKEN
from overfill_jax.weights.folders import check_dtype

# How often to look or save, and how to compute, does not change what is learnt; of data the
# content counts.
FREE = (
    *("log_every", "validate_every", "checkpoint_every", "keep_last", "profile_at"),
    *("profile_steps", "source", "validation", "remat", "loss_chunk", "accumulation"),
)

PATH, FINGERPRINT = "path of ", "fingerprint of "  # of each model of the run, by its name

CHOICES = {"first_token": FIRST_TOKEN, "remat": ("none", *REMAT_POLICIES)}
AT_LEAST = {
    1: (
        *("batch_size", "accumulation", "epochs", "validation_rows", "keep_last", "loss_chunk"),
        *("log_every", "validate_every", "checkpoint_every", "profile_steps"),
    ),
    0: (
        *(
            "steps",
            "profile_at",
            "lora_rank",
            "prompt_slots",
            "weight_decay",
            "final_learning_rate",
        ),
        *("cross_entropy_weight", "kl_weight", "beta1", "beta2", "warmup"),
    ),
}
ABOVE_ZERO = ("learning_rate", "epsilon", "clip_norm", "kl_temperature", "lora_alpha")
BELOW_ONE = ("beta1", "beta2", "warmup")


def check_settings(c: ml_collections.ConfigDict) -> None:
    """Refuses train settings that no code path takes.

    Raises:
      InputError: names the key, its value and what was expected.
    """
    for key, known in CHOICES.items():
        if c[key] not in known:
            raise InputError(f"train.{key}: found {c[key]!r}, expected one of {known}")
    check_dtype("train.dtype", c.dtype)
    for least, keys in AT_LEAST.items():
        for key in keys:
            if not c[key] >= least:
                raise InputError(f"train.{key}: found {c[key]}, expected at least {least}")
    for key in ABOVE_ZERO:
        if not c[key] > 0:
            raise InputError(f"train.{key}: found {c[key]}, expected more than 0")
    for key in BELOW_ONE:
        if not c[key] < 1:
            raise InputError(f"train.{key}: found {c[key]}, expected less than 1")
    if c.prompt_slots and not c.packing:
        raise InputError(
            f"train.prompt_slots: found {c.prompt_slots} without train.packing, expected 0"
        )
    if not c.cross_entropy_weight and not c.kl_weight:
        raise InputError("train: cross_entropy_weight and kl_weight are both 0; nothing to learn")


def run_settings(
    config: ml_collections.ConfigDict,
    folders: dict[str, Path],
    fingerprints: dict[str, str],
    steps: int,
    training: TrainingLoader,
    validation: ValidationLoader,
) -> dict[str, object]:
    """All that decides what the run learns, and where its models are, flat and as JSON knows it."""
    train = {f"train.{k}": v for k, v in config.train.items() if k not in FREE}
    models = {f"{PATH}{name}": str(folder.resolve()) for name, folder in folders.items()}
    models |= {f"{FINGERPRINT}{name}": found for name, found in fingerprints.items()}
    return {
        "seed": config.seed,
        "steps in all": steps,
        "training data": training.digest,
        "validation data": validation.digest,
        **train,
        **models,
    }


def check_same_run(path: Path, settings: dict[str, object], latest: int | None) -> None:
    """Records the settings of a new run; a run that has checkpoints goes on only under its own.

    Raises:
      InputError: names the settings that differ from those of the run in the workdir, or the
        record of these, which is missing or broken.
    """
    if latest is None:
        if distributed.is_main():
            files.write_json(path, settings)
        return
    if not path.exists():
        raise InputError(
            f"{path}: missing, while there are checkpoints of its run; remove these to begin anew"
        )
    before = files.read_object(path)
    # A model is the same wherever it lies.
    keys = (key for key in sorted(settings | before) if not key.startswith(PATH))
    differing = [key for key in keys if settings.get(key) != before.get(key)]
    if differing:
        changes = ", ".join(
            f"{key} was {_told(before, key)}, is {_told(settings, key)}" for key in differing
        )
        raise InputError(
            f"{path.parent}: holds a run with other settings ({changes}); remove it and its "
            "checkpoints, or use another workdir"
        )


def _told(settings: dict[str, object], key: str) -> str:
    """A setting's value; of a fingerprint, also the folder that it was taken of."""
    path = settings.get(key.replace(FINGERPRINT, PATH, 1)) if FINGERPRINT in key else None
    return f"{settings.get(key)!r}" + (f" ({path})" if path else "")
