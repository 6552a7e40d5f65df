"""The curves of one training run, as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from overfill_jax import files
from overfill_jax.training.metrics import read_metrics


def plot_curves(folder: Path, title: str) -> None:
    """Draws loss, validation loss, gradient norm and learning rate into `folder/curves.png`."""
    rows = read_metrics(folder)
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, rest = figure.subplots(1, 2)
    for name, label in (("loss", "training"), ("validation_loss", "validation")):
        _line(losses, rows, name, label, marker="o" if name == "validation_loss" else None)
    losses.set(xlabel="step", ylabel="loss per answer token (nats)", yscale="log", title=title)
    losses.legend()
    _line(rest, rows, "gradient_norm", "gradient norm", color="tab:gray")
    rest.set(xlabel="step", ylabel="gradient norm", yscale="log")
    rate = rest.twinx()
    _line(rate, rows, "learning_rate", "learning rate", color="tab:orange")
    rate.set(ylabel="learning rate (orange)", ylim=(0, None))
    with files.replace_file(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _line(axes, rows: list[dict[str, float | int]], name: str, label: str, **style) -> None:
    points = [(row["step"], row[name]) for row in rows if name in row]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2, markersize=3, **style)
