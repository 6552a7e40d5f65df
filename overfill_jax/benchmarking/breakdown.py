"""Where the time of an answer goes, reading or writing (paper, figure on latency), as a plot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from overfill_jax.benchmarking.inference import Answered
from overfill_jax.evaluation.plots import finish, save


def plot_breakdown(found: Sequence[Answered], path: Path) -> None:
    """Prefill and decode of every system and answer length, for the smallest batch and prompt."""
    batch, prompt = min((one.batch, one.prompt) for one in found)
    shown = [one for one in found if (one.batch, one.prompt) == (batch, prompt)]
    systems = list(dict.fromkeys(one.system for one in shown))
    answers = sorted({one.answer for one in shown})
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        of_system = [one for one in shown if one.system == system]
        x = [
            answers.index(one.answer) + (place - (len(systems) - 1) / 2) * width
            for one in of_system
        ]
        first = np.array([one.first for one in of_system])
        rest = np.array([one.total for one in of_system]) - first
        colour = f"C{place}"
        axes.bar(x, first, 0.9 * width, color=colour)
        axes.bar(x, rest, 0.9 * width, first, color=colour, alpha=0.45, label=system)
    axes.set_xticks(range(len(answers)), [str(answer) for answer in answers])
    finish(axes, "answer (tokens)", "seconds")
    axes.set_title(f"Prefill (dark) and decode, batch {batch}, prompt of {prompt}", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)
