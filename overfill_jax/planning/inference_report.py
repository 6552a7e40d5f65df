"""Predicted answers in tables, in numbers, and in one sentence."""

import dataclasses
from typing import Any

from overfill_jax.chips import GIB
from overfill_jax.evaluation.table import gib
from overfill_jax.planning.inference import ALONE, FULL, TWO_STAGE, InferencePlan

Table = tuple[str, list[list[str]]]

# Answers whose time is told apart, as in the paper; gains that the longest prompts are sought for.
ANSWERS = (128, 512, 1024)
GAINS = (2.0, 1.5, 1.1)


def tables(plan: InferencePlan) -> list[Table]:
    """Everything but the sentence."""
    return [_answer(plan), _breakdown(plan), _worth(plan), _memory(plan)]


def sentence(plan: InferencePlan) -> str:
    """The answer to whether two stages pay."""
    request, seconds = plan.request, plan.times[TWO_STAGE].total
    over = {name: plan.speed_up(request.prompt, request.answer, name) for name in (FULL, ALONE)}
    shortest, longest = plan.shortest_answer(), plan.longest_prompt(GAINS[-1])
    pays = f"from {shortest:,} answer tokens on" if shortest else "at no length of the answer"
    gains = f"{GAINS[-1] - 1:.0%} or more " + (
        f"up to prompts of {longest:,} tokens" if longest else "at no length of the prompt"
    )
    return (
        f"On {_asked(plan)}: two-stage answers in {seconds:.3g} s, {over[FULL]:.2f}x as fast as "
        f"the full model (the weights' bytes would allow {plan.limit:.2f}x) and "
        f"{over[ALONE]:.2f}x as the decoder alone; it pays {pays}, and gains {gains}{_fit(plan)}."
    )


def assumptions(plan: InferencePlan) -> str:
    """What the predictions rest on."""
    reached = plan.machine.reached
    weights = ", ".join(f"{kind} {share:.0%}" for kind, share in reached.weights.items())
    whole = {*plan.systems[FULL].reader.whole, *plan.systems[ALONE].writer.whole}
    undivided = f"Whole on every chip: {', '.join(sorted(whole))}. " if whole else ""
    return (
        f"{undivided}Assumed of {plan.machine.chip.name}: products at {reached.products:.0%} and "
        f"attention at {reached.attention:.0%} of the peak; weights at so much of the bandwidth: "
        f"{weights}; the cache at {reached.cache:.0%}; beside, {1e6 * reached.layer:.0f} us a "
        f"layer and {1e6 * reached.step:.0f} us a pass. None of it is measured here (sources: "
        "planning/efficiency.py). The floor is what bytes and FLOPs take at the vendor's figures."
    )


def numbers(plan: InferencePlan) -> dict[str, Any]:
    """As JSON knows it."""
    request, two_stage = plan.request, plan.systems[TWO_STAGE]
    return {
        "sentence": sentence(plan),
        "request": dataclasses.asdict(request),
        "chips": plan.machine.chips,
        "weights": two_stage.writer.weights,
        "cache": two_stage.writer.cache,
        "refresh": two_stage.refresh,
        "assumed": dataclasses.asdict(plan.machine.reached),
        "systems": {
            name: {part: float(value) for part, value in dataclasses.asdict(times).items()}
            | {
                "first_token": float(times.first_token),
                "total": float(times.total),
                "token": float(plan.step(name, plan.machine)),
                "floor": float(plan.step(name, plan.machine.perfect)),
            }
            for name, times in plan.times.items()
        },
        "speed_up": {
            name: float(plan.speed_up(request.prompt, request.answer, name))
            for name in (FULL, ALONE)
        },
        "limit": plan.limit,
        "shortest_answer": plan.shortest_answer(),
        "longest_prompts": {f"{gain:g}": plan.longest_prompt(gain) for gain in GAINS},
        "memory": plan.memory(),
    }


def _asked(plan: InferencePlan) -> str:
    """What is answered, on what, and how."""
    request, system, chip = plan.request, plan.systems[TWO_STAGE], plan.machine.chip.name
    machine = f"one {chip}" if plan.machine.chips == 1 else f"{plan.machine.chips} {chip}"
    weights, cache = system.writer.weights, system.writer.cache
    stored = f"decoder in {weights}" + (f" and cache in {cache}" if cache != weights else "")
    refreshed = f", refreshed every {system.refresh}" if system.refresh else ""
    lengths = f"{request.prompt:,} in / {request.answer:,} out"
    return f"{machine}, batch {request.batch}, {lengths}, {stored}{refreshed}"


def _answer(plan: InferencePlan) -> Table:
    request = plan.request
    rows = [
        ["system", "first token", "ms/token", "floor", "reached", "answer", "tokens/s", "speed"]
    ]
    for name, times in plan.times.items():
        token, floor = (plan.step(name, m) for m in (plan.machine, plan.machine.perfect))
        rows.append(
            [
                name,
                f"{1e3 * times.first_token:.3g} ms",
                f"{1e3 * token:.3g}",
                f"{1e3 * floor:.3g}",
                f"{floor / token:.0%}",
                f"{times.total:.3g} s",
                f"{request.batch * request.answer / times.total:,.0f}",
                f"{plan.times[FULL].total / times.total:.2f} x",
            ]
        )
    return f"An answer: {_asked(plan)}", rows


def _breakdown(plan: InferencePlan) -> Table:
    prompt, batch = plan.request.prompt, plan.request.batch
    rows = [["answer", "system", "seconds", "prefill", "handoff", "decode", "refresh"]]
    for answer in ANSWERS:
        if not plan.least <= answer <= plan.longest - prompt:
            continue
        for name, system in plan.systems.items():
            times = system.times(plan.machine, batch, prompt, answer)
            shares = dataclasses.asdict(times).values()
            parts = [f"{part / times.total:.1%}" for part in shares]
            rows.append([f"{answer:,}", name, f"{times.total:.3g}", *parts])
    return "Where the time of an answer goes", rows


def _worth(plan: InferencePlan) -> Table:
    prompt, answer = plan.request.prompt, plan.request.answer
    behind = plan.times[TWO_STAGE].total - plan.times[ALONE].total
    shortest = plan.shortest_answer()
    rows = [
        [f"shortest answer to {prompt:,} tokens", f"{shortest:,}" if shortest else "none"],
        *(
            [
                f"longest prompt of {answer:,} with {gain:.1f} x",
                f"{longest:,}" if (longest := plan.longest_prompt(gain)) else "none",
            ]
            for gain in GAINS
        ),
        ["behind the decoder alone", f"{1e3 * behind:.3g} ms"],
        ["weights' bytes, full for decoder", f"{plan.limit:.2f} x"],
    ]
    return "Where two stages pay", [["", "two-stage"], *rows]


def _memory(plan: InferencePlan) -> Table:
    parts = plan.memory()
    cells = [[name, gib(size)] for name, size in parts.items()]
    total = [
        ["at the peak", gib(sum(parts.values()))],
        ["the chip has", gib(plan.machine.chip.memory)],
    ]
    return "Memory of a chip that answers", [["part", "bytes"], *cells, *total]


def _fit(plan: InferencePlan) -> str:
    needed, there = sum(plan.memory().values()), plan.machine.chip.memory
    if needed <= there:
        return ""
    return f"; but it does not fit: {needed / GIB:.1f} GiB on a chip of {there / GIB:.1f}"
