"""A plan in tables for the console and Markdown, and as plain numbers for JSON."""

import dataclasses
from typing import Any

from overfill_jax.chips import Chip
from overfill_jax.evaluation.table import as_markdown, as_text, gib, scaled
from overfill_jax.model.size import parameters, parameters_by_part
from overfill_jax.planning import inference_report
from overfill_jax.planning.compiled import Compiled
from overfill_jax.planning.duration import FILLED, REACHED, Duration, Run
from overfill_jax.planning.inference import InferencePlan
from overfill_jax.planning.inference_report import Table
from overfill_jax.planning.memory import Memory
from overfill_jax.planning.widths import Width
from overfill_jax.planning.workload import Workload


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is known before paying.

    Attributes:
      chip, topology: what the run shall run on.
      work: one step of it.
      widths: legal ones near the decoder's.
      memory, duration: of the step.
      run: None where its length is not known.
      compiled: None where the compiler was not asked.
      inference: what an answer takes, once trained.
    """

    chip: Chip
    topology: str
    work: Workload
    widths: list[Width]
    memory: Memory
    duration: Duration
    run: Run | None
    compiled: Compiled | None
    inference: InferencePlan


def text(plan: Plan) -> str:
    """For the console."""
    parts = [f"{title}\n{as_text(cells)}" for title, cells in _tables(plan)]
    return "\n\n".join([_head(plan), *parts, *_remarks(plan)])


def markdown(plan: Plan) -> str:
    """For reading and for keeping."""
    parts = [f"## {title}\n\n{as_markdown(cells)}" for title, cells in _tables(plan)]
    parts += ["![Speed-up over the full model](speed_up.png)", *_remarks(plan)]
    return "\n\n".join([f"# {_head(plan)}", *parts]) + "\n"


def numbers(plan: Plan) -> dict[str, Any]:
    """As JSON knows it."""
    work, setup, terms = plan.work, plan.work.setup, plan.work.setup.objective.terms
    models = {"full": work.full, "decoder": work.decoder}
    return {
        "chip": dataclasses.asdict(plan.chip),
        "topology": plan.topology,
        "mesh": dict(work.mesh.shape),
        "models": {
            name: dataclasses.asdict(config) | {"parameters": parameters_by_part(config)}
            for name, config in models.items()
        },
        "step": {
            "rows": work.rows,
            "prompt_slots": work.prompt_slots,
            "answer_slots": work.answer_slots,
            "accumulation": setup.accumulation,
            "remat": setup.remat,
            "loss_chunk": terms.chunk,
            "divergence": terms.kl_weight > 0,
            "frozen_dtype": work.frozen_dtype,
        },
        "legal_widths": [dataclasses.asdict(width) for width in plan.widths],
        "flops": dataclasses.asdict(work.flops) | {"model": work.flops.model},
        "memory": dataclasses.asdict(plan.memory) | {"total": plan.memory.total},
        "duration": dataclasses.asdict(plan.duration),
        "run": plan.run and dataclasses.asdict(plan.run),
        "compiled": plan.compiled and _compiled_numbers(plan),
        "inference": inference_report.numbers(plan.inference),
    }


def deviation(plan: Plan) -> float | None:
    """By how much the predicted memory exceeds the compiler's, as a share of this."""
    if plan.compiled is None or plan.compiled.refusal:
        return None
    return plan.memory.total / plan.compiled.peak - 1


def _compiled_numbers(plan: Plan) -> dict[str, Any]:
    return dataclasses.asdict(plan.compiled) | {"deviation": deviation(plan)}


def _head(plan: Plan) -> str:
    sizes = ", ".join(f"{axis} {size}" for axis, size in plan.work.mesh.shape.items())
    return f"Plan: {plan.work.mesh.size} chips {plan.chip.name}, {plan.topology}, as {sizes}"


def _tables(plan: Plan) -> list[Table]:
    tables = [_models(plan), _widths(plan), _flops(plan), _memory(plan), _time(plan)]
    compiled = [_compiler(plan)] if plan.compiled else []
    return [*tables, *compiled, *inference_report.tables(plan.inference)]


def _models(plan: Plan) -> Table:
    full, decoder = plan.work.full, plan.work.decoder
    widths = {"full": plan.work.frozen_dtype, "decoder": "float32"}
    header = ["part", "full", f"in {widths['full']}", "decoder", f"in {widths['decoder']}"]
    rows = [
        [name, scaled(a), gib(a * _itemsize(widths["full"])), scaled(b), gib(4 * b)]
        for (name, a), b in zip(
            parameters_by_part(full).items(), parameters_by_part(decoder).values(), strict=True
        )
    ]
    a, b = parameters(full), parameters(decoder)
    total = ["all", scaled(a), gib(a * _itemsize(widths["full"])), scaled(b), gib(4 * b)]
    sizes = ["width / MLP", *(f"{c.hidden_size} / {c.intermediate_size}" for c in (full, decoder))]
    return "Parameters", [header, *rows, total, [sizes[0], sizes[1], "", sizes[2], ""]]


def _widths(plan: Plan) -> Table:
    wanted = parameters(plan.work.decoder)
    rows = [
        [
            str(width.hidden),
            str(width.intermediate),
            scaled(width.parameters),
            f"{width.parameters / wanted - 1:+.1%}",
        ]
        for width in plan.widths
    ]
    return "Legal widths nearby", [["width", "MLP", "parameters", "against decoder"], *rows]


def _flops(plan: Plan) -> Table:
    flops = plan.work.flops
    rows = {
        "full model, forward": flops.frozen,
        "decoder, forward": flops.forward,
        "decoder, backward": flops.backward,
        "model": flops.model,
        "recomputed": flops.recomputed,
    }
    cells = [[name, scaled(round(value), "FLOP")] for name, value in rows.items()]
    return "FLOPs of a step", [["part", "all chips"], *cells]


def _memory(plan: Plan) -> Table:
    cells = [[name, gib(size)] for name, size in plan.memory.parts.items()]
    total = [["at the peak", gib(plan.memory.total)], ["the chip has", gib(plan.chip.memory)]]
    return "Memory of a chip", [["part", "bytes"], *cells, *total]


def _time(plan: Plan) -> Table:
    d, run = plan.duration, plan.run
    tokens = plan.work.rows * plan.work.row_slots * FILLED
    rows = [
        ["step", *(f"{s:.3g} s" for s in d.seconds)],
        ["of it computing", *(f"{s:.3g} s" for s in d.computing)],
        ["communication", *[f"{d.talking:.3g} s"] * 2],
        ["optimiser", *[f"{d.updating:.3g} s"] * 2],
        ["MFU", *(f"{share:.0%}" for share in d.mfu)],
        ["tokens/s", *(scaled(round(tokens / s)) for s in d.seconds)],
    ]
    if run:
        rows += [
            ["steps of the run", *[str(run.steps)] * 2],
            ["tokens of the run", *[scaled(run.tokens)] * 2],
            ["hours of the run", *(f"{hours:.3g}" for hours in run.hours)],
        ]
    return "Time", [["", "best", "worst"], *rows]


def _compiler(plan: Plan) -> Table:
    found = plan.compiled
    rows = [["compiled in", f"{found.seconds:.0f} s", ""]]
    if found.refusal:
        return "XLA", [["", "", ""], *rows, ["refused", found.refusal, ""]]
    rows += [
        ["state, weights, batch", gib(found.arguments), ""],
        ["at the peak", gib(found.peak), f"the plan says {deviation(plan):+.1%}"],
    ]
    rows += [
        [f"{kind}, a step", gib(traffic.bytes), f"{traffic.count} times"]
        for kind, traffic in found.collectives.items()
    ]
    return "XLA", [["", "bytes", ""], *rows]


def _remarks(plan: Plan) -> list[str]:
    work = plan.work
    remarks = [
        f"Rows of {work.prompt_slots} prompt and {work.answer_slots} answer slots, "
        f"{work.rows} a step in {work.setup.accumulation} micro-batches; {FILLED:.0%} of the slots "
        f"are taken to hold a token. Best: products at {REACHED[0]:.0%} of the peak, communication "
        f"hidden behind them; worst: {REACHED[1]:.0%}, nothing hidden. MFU leaves out what is "
        "recomputed."
    ]
    if plan.memory.replicated:
        remarks.append(f"Replicated, not divisible: {', '.join(plan.memory.replicated)}.")
    if plan.memory.total > plan.chip.memory:
        remarks.append(
            "It does not fit: more chips along mesh.fsdp or mesh.tensor, legal widths, or more "
            "train.accumulation may help."
        )
    if plan.run is None:
        remarks.append("Hours need train.steps, or plan.tokens for the size of the data.")
    answers = plan.inference
    return [*remarks, inference_report.assumptions(answers), inference_report.sentence(answers)]


def _itemsize(dtype: str) -> int:
    return 2 if dtype in ("bfloat16", "float16") else 4
