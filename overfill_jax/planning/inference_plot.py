"""The speed-up over the length of the answer, a curve for each length of the prompt; a PNG file.

Colours as in `evaluation/plots.py`.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from overfill_jax.evaluation.plots import finish, save
from overfill_jax.planning.inference import FULL, InferencePlan

PROMPTS = {128: "#009E73", 512: "#D55E00", 2048: "#0072B2", 8192: "#CC79A7", 32768: "#E69F00"}
LONGEST = 8192  # answer


def speed_up_plot(plan: InferencePlan, path: Path) -> None:
    """Draws two-stage over the full model alone, from prompt to last token."""
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for prompt, colour in PROMPTS.items():
        if (room := min(LONGEST, plan.longest - prompt)) < plan.least:
            continue
        answers = np.unique(np.geomspace(plan.least, room, 200).astype(int))
        gains = plan.speed_up(prompt, answers, FULL)
        axes.plot(answers, gains, color=colour, lw=1.8, label=f"prompt of {prompt:,}")
    request = plan.request
    gain = plan.speed_up(request.prompt, request.answer, FULL)
    axes.plot(request.answer, gain, "*", ms=13, color="#000000", label="plan", zorder=3)
    axes.axhline(plan.limit, color="#7F7F7F", ls="--", lw=1.2, label="weights' bytes")
    axes.axhline(1.0, color="#7F7F7F", ls=":", lw=1.2, label="full model alone")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=0)
    finish(axes, "answer (tokens)", "speed-up over the full model")
    where = f"{plan.machine.chips} x {plan.machine.chip.name}, batch {request.batch}"
    axes.set_title(f"Two-stage answers, predicted: {where}", fontsize=11)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)
