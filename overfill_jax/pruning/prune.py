"""The prune stage: full/ and importance.npz into pruned/ and kept.npz, with a report."""

import dataclasses
from pathlib import Path

import ml_collections
import numpy as np
from absl import logging

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.size import cache_bytes, decode_bytes, parameters_by_part
from overfill_jax.model.transformer import Model
from overfill_jax.pruning.choose import (
    Kept,
    by_importance,
    check_selection,
    choose,
    load_kept,
    save_kept,
)
from overfill_jax.pruning.cut import cut
from overfill_jax.pruning.importance import load_importance
from overfill_jax.pruning.norm_correction import (
    correct_norms,
    measured_energy,
    norm_factors,
)
from overfill_jax.pruning.samples import Samples, load_samples
from overfill_jax.pruning.sizes import check_removes, kept_sizes
from overfill_jax.pruning.text_loss import text_loss
from overfill_jax.weights.folders import OURS, check_target, fingerprint, load_model, save_model
from overfill_jax.weights.origin import Origin

SIZES = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Cuts the full model to the sizes of `config.prune` and says what that costs."""
    target, indices = workdir / "pruned", workdir / "kept.npz"
    told = workdir / "results" / "prune.json"
    check_target(target, OURS, workdir / "full")
    files.check_writable(indices, told)
    full = load_model(workdir / "full")
    identity = fingerprint(full)
    kept = choose_kept(config, full.config, identity, workdir)
    factors = None
    if config.prune.norm_correction:
        importance = load_importance(workdir / "importance.npz", full.config, identity)
        factors = norm_factors(measured_energy(importance), kept)
    models = {"full": full, "pruned": cut(full, kept)}
    if factors:
        models["uncorrected"] = models["pruned"]
        models["pruned"] = correct_norms(models["pruned"], factors)
    losses = measure_losses(config, models, workdir / "calibration.npz")
    pruned = models["pruned"]
    save_model(target, pruned, workdir / "full", Origin(identity, first_token=None))
    save_kept(indices, kept)
    dtype = full.params["embed"]["embedding"].dtype.name
    report = {
        "loss_on_calibration_text": losses,
        "norm_correction": factors and {name: f.tolist() for name, f in factors.items()},
        **size_report(full.config, pruned.config, dtype),
    }
    files.write_json(told, report)
    for line in format_report(report):
        logging.info("%s", line)


def choose_kept(
    config: ml_collections.ConfigDict, shape: ModelConfig, identity: str, workdir: Path
) -> Kept:
    """What stays: given index sets where the config names a file, else by choice.

    Raises:
      InputError: a setting or a file that does not fit the full model of this shape and
        fingerprint.
    """
    c = config.prune
    check_selection(c.selection)
    if c.indices:
        for key in ("heads", "kv_heads", "depth"):
            if c[key]:
                raise InputError(
                    f"prune.{key}: found {c[key]:g} beside prune.indices, which say what stays; "
                    "expected 0"
                )
        return load_kept(Path(c.indices), shape)
    sizes = kept_sizes(
        shape, c.hidden, c.intermediate, c.multiple_of, c.heads, c.kv_heads, c.depth, c.layers
    )
    check_removes(shape, sizes)
    importance = None
    if by_importance(shape, sizes, c.selection, c.layers):
        importance = load_importance(workdir / "importance.npz", shape, identity)
    return choose(shape, importance, sizes, c.selection, c.layers, config.seed)


def measure_losses(
    config: ml_collections.ConfigDict, models: dict[str, Model], path: Path
) -> dict[str, float | str] | None:
    """Nats per token on the calibration text, of the full model and of its untrained copies.

    Where the text has answers, only these count: prompts are never asked for, and even a good
    model may have learnt nothing of them. `positions` says which. None where there is no such
    text, as for indices that were released.

    Raises:
      InputError: the samples are not those of this model's tokenizer.
    """
    if not path.exists():
        logging.info("%s: no such file, so that the loss before training is not measured", path)
        return None
    samples = load_samples(path)
    check_samples(samples, models["full"].config, path)
    c = config.calibrate
    answers = samples.of_answers()
    losses: dict[str, float | str] = {"positions": "answer" if answers else "all"}
    samples = answers or samples
    for name, model in models.items():
        shape = dataclasses.replace(model.config, dtype=c.dtype)
        losses[name] = text_loss(Model(shape, model.params), samples.batches(c.batch_size))
    return losses


def check_samples(samples: Samples, config: ModelConfig, path: Path) -> None:
    """Refuses samples of another model.

    Raises:
      InputError: names the file and the tokens that the model lacks.
    """
    least, most = samples.tokens.min(initial=0), samples.tokens.max(initial=0)
    if least < 0 or most >= config.vocab_size:
        raise InputError(
            f"{path}: found tokens {least}..{most}, expected 0..{config.vocab_size - 1}; it was "
            "written with another model"
        )


def size_report(full: ModelConfig, pruned: ModelConfig, dtype: str) -> dict:
    """Sizes, parameters by part, and bytes that a decoded token reads.

    These are of the weights, before any context, and of every cached position.
    """
    report = {}
    for name, shape in (("full", full), ("pruned", pruned)):
        parts = parameters_by_part(shape)
        report[name] = {
            **{size: getattr(shape, size) for size in SIZES},
            "parameters": parts | {"total": sum(parts.values())},
            "decode_bytes_per_token": decode_bytes(shape, dtype, context=0),
            "cache_bytes_per_position": cache_bytes(shape, dtype),
        }
    return report


def format_report(report: dict) -> list[str]:
    """The report as a table of lines."""
    full, pruned = report["full"], report["pruned"]
    rows = [("part", "full", "pruned", "kept")]

    def row(name: str, before: int, after: int) -> None:
        share = f"{after / before:.1%}" if before else "-"
        rows.append((name, f"{before:,}", f"{after:,}", share))

    for name in SIZES:
        row(name, full[name], pruned[name])
    for part, before in full["parameters"].items():
        row(f"parameters, {part}", before, pruned["parameters"][part])
    for name in ("decode_bytes_per_token", "cache_bytes_per_position"):
        row(name.replace("_", " "), full[name], pruned[name])
    lines = [f"{a:24} {b:>16} {c:>16} {d:>8}" for a, b, c, d in rows]
    losses = report["loss_on_calibration_text"]
    if losses:
        of = {"answer": "answers in the", "all": "whole"}[losses["positions"]]
        lines.append(
            f"loss on the {of} calibration text before training: full {losses['full']:.3f}, "
            f"pruned {losses['pruned']:.3f} nats per token"
        )
    factors = report["norm_correction"]
    if factors:
        lines.append(told_correction(factors, losses))
    return lines


def told_correction(factors: dict, losses: dict | None) -> str:
    """What the norms' scales were multiplied with, and the loss without."""
    every = np.concatenate([np.ravel(of_norms) for of_norms in factors.values()])
    line = f"scales of the norms times {every.min():.3f} to {every.max():.3f}"
    return line + (f"; without, pruned {losses['uncorrected']:.3f}" if losses else "")
