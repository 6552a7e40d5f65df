"""What was cut: sizes before and after, and the importance that chose."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from overfill_jax import files
from overfill_jax.evaluation.plots import finish, save
from overfill_jax.evaluation.table import as_markdown
from overfill_jax.pruning.choose import load_kept
from overfill_jax.pruning.importance import load_importance
from overfill_jax.reporting.section import Section
from overfill_jax.weights.folders import load_config, load_fingerprint

COLOURS = {True: "#D55E00", False: "#BBBBBB"}  # of what stays, and of what goes


def pruned_section(workdir: Path, folder: Path) -> Section | None:
    """From results/prune.json; draws importance.png into `folder`. None where nothing was pruned.

    Raises:
      InputError: a file that is broken or of another full model.
    """
    if not (workdir / "results" / "prune.json").exists():
        return None
    found = files.read_object(workdir / "results" / "prune.json")
    parts = [as_markdown(size_cells(found))]
    if losses := found["loss_on_calibration_text"]:
        parts.append(
            f"Loss on the calibration text before training, in nats per token: "
            f"full {losses['full']:.3f}, pruned {losses['pruned']:.3f}."
        )
    if all((workdir / name).exists() for name in ("importance.npz", "kept.npz", "full")):
        draw_importance(workdir, folder / "importance.png")
        image = (folder / "importance.png").relative_to(workdir).as_posix()
        parts.append(f"![Importance of the channels, sorted; coloured: what stays]({image})")
    return Section("Pruning", "\n\n".join(parts))


def size_cells(found: dict) -> list[list[str]]:
    """Every size and every part's parameters, full and pruned."""
    full, pruned = ({**found[name], **found[name]["parameters"]} for name in ("full", "pruned"))
    rows = [["", "full", "pruned", "kept"]]
    for name, before in full.items():
        if name != "parameters":
            kept = f"{pruned[name] / before:.1%}" if before else ""
            rows.append([name.replace("_", " "), f"{before:,}", f"{pruned[name]:,}", kept])
    return rows


def draw_importance(workdir: Path, path: Path) -> None:
    """Sorted scores of hidden channels, and of every layer's MLP channels; those kept in colour."""
    shape = load_config(workdir / "full")
    identity = load_fingerprint(workdir / "full")
    importance = load_importance(workdir / "importance.npz", shape, identity)
    kept = load_kept(workdir / "kept.npz", shape)
    layers = range(shape.num_layers) if kept.layers is None else kept.layers.tolist()
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    hidden, inner = figure.subplots(1, 2)
    _sorted_scores(hidden, importance.hidden, kept.hidden)
    finish(hidden, "hidden channels, sorted", "importance")
    for layer, chosen in zip(layers, kept.intermediate, strict=True):
        _sorted_scores(inner, importance.intermediate[layer], chosen)
    finish(inner, "MLP channels, sorted, of each layer", "importance")
    figure.suptitle("Importance of the channels (orange: kept)", fontsize=11)
    save(figure, path)


def _sorted_scores(axes: Axes, scores: np.ndarray, kept: np.ndarray) -> None:
    order = np.argsort(-scores, kind="stable")
    stays = np.isin(order, kept)
    places = np.arange(1, len(order) + 1)
    for which, colour in COLOURS.items():
        shown = stays == which
        axes.plot(places[shown], scores[order][shown], ".", ms=3, color=colour)
    axes.set_yscale("log")
