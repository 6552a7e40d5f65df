"""The plan stage: what a run needs, from its config alone; into `plan/`."""

import math
from pathlib import Path

import ml_collections

from overfill_jax import files
from overfill_jax.chips import find_chip, link_speed, parse_topology
from overfill_jax.errors import InputError
from overfill_jax.planning import report
from overfill_jax.planning.compiled import compile_step
from overfill_jax.planning.duration import run_duration, step_duration
from overfill_jax.planning.inference import plan_inference
from overfill_jax.planning.inference_plot import speed_up_plot
from overfill_jax.planning.memory import step_memory
from overfill_jax.planning.widths import legal_widths
from overfill_jax.planning.workload import read_workload


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Plans the train step of `config` and the answers that follow; prints it, fills `plan/`."""
    plan = make_plan(config)
    print(report.text(plan), flush=True)
    with files.replace_folder(workdir / "plan") as folder:
        files.write_json(folder / "plan.json", report.numbers(plan))
        files.write_text(folder / "plan.md", report.markdown(plan))
        speed_up_plot(plan.inference, folder / "speed_up.png")


def make_plan(config: ml_collections.ConfigDict) -> report.Plan:
    """Reckons all there is to know, and asks the compiler if told to.

    Raises:
      InputError: names the key that is at fault.
    """
    c = config.plan
    if c.tokens < 0:
        raise InputError(f"plan.tokens: found {c.tokens}, expected 0 or the size of the data")
    chip = find_chip(c.chip)
    topology = parse_topology(chip, c.topology)
    work = read_workload(config, math.prod(topology))
    memory = step_memory(work)
    duration = step_duration(work, memory, chip, link_speed(chip, topology))
    return report.Plan(
        chip=chip,
        topology=c.topology,
        work=work,
        widths=legal_widths(work.full, work.decoder),
        memory=memory,
        duration=duration,
        run=run_duration(work, duration, config.train.steps, c.tokens, config.train.epochs),
        compiled=compile_step(work, chip, c.topology) if c.compile else None,
        inference=plan_inference(c, work.full, work.decoder, chip, config.quantise.group),
    )
