"""The table that sets the systems side by side, for the console and for Markdown."""

import re
from collections.abc import Sequence

from overfill_jax.chips import GIB
from overfill_jax.evaluation.accuracy import gap_closed
from overfill_jax.evaluation.lengths import HEADER, as_cells
from overfill_jax.evaluation.results import Result
from overfill_jax.evaluation.systems import FULL, PRUNED_TUNED, TWO_STAGE

SHOWN = 400  # characters of a text in a cell


def comparison(results: Sequence[Result]) -> list[list[str]]:
    """Cells of the table, its header first: a row for each system."""
    families = list(results[0].families)
    shown = families if len(families) > 1 else []
    header = ["system", "decode params", "bytes/token", "loss", *shown, "accuracy", *HEADER]
    return [header] + [
        [
            result.system.title,
            scaled(result.decode_parameters),
            scaled(result.decode_bytes, "B"),
            f"{result.loss.total.loss:.3f}",
            *(f"{result.families[family].share:.3f}" for family in shown),
            f"{result.accuracy.share:.3f}",
            *as_cells(result.lengths),
        ]
        for result in results
    ]


def intervals(results: Sequence[Result]) -> list[list[str]]:
    """Cells of a table of accuracies with their 95 % confidence intervals."""
    families = list(results[0].families)
    shown = families if len(families) > 1 else []
    return [["system", *shown, "accuracy"]] + [
        [
            result.system.title,
            *(
                f"{found.share:.3f} ({found.low:.2f}-{found.high:.2f})"
                for found in (*(result.families[family] for family in shown), result.accuracy)
            ),
        ]
        for result in results
    ]


def summary(results: Sequence[Result]) -> dict:
    """The numbers that runs are compared by; `gap_closed` is None where it is not defined."""
    return {
        "accuracy": {result.system.name: result.accuracy.share for result in results},
        "loss": {result.system.name: result.loss.total.loss for result in results},
        "gap_closed": two_stage_gap(results),
    }


def two_stage_gap(results: Sequence[Result]) -> float | None:
    """How much of the gap in accuracy from pruned tuned to full two-stage decoding closes."""
    found = {result.system: result.accuracy.share for result in results}
    if not {FULL, TWO_STAGE, PRUNED_TUNED} <= found.keys():
        return None
    return gap_closed(found[TWO_STAGE], found[PRUNED_TUNED], found[FULL])


def gap_sentence(results: Sequence[Result]) -> str:
    """The same in words; '' where there is no gap or it is not known."""
    closed = two_stage_gap(results)
    if closed is None:
        return ""
    found = {result.system: result.accuracy.share for result in results}
    return (
        f"Two-stage closes {closed:.1%} of the gap in accuracy from {found[PRUNED_TUNED]:.3f} "
        f"(pruned, tuned) to {found[FULL]:.3f} (full)."
    )


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """The table in aligned columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def as_markdown(cells: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """The table in Markdown; columns of numbers, all but the first, stand to the right."""
    rule = "|".join(["", "---", *["---:" if numbers else "---"] * (len(cells[0]) - 1), ""])
    header, *rows = (f"| {' | '.join(map(escaped, row))} |" for row in cells)
    return "\n".join([header, rule, *rows])


def beginning(text: str) -> str:
    """As much of it as a cell shows, of an answer."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def ending(text: str) -> str:
    """The same of a prompt, whose end is what it asks."""
    return text if len(text) <= SHOWN else f"…{text[-SHOWN:]}"


def without_empty(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """The table without the columns that have a header alone."""
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def escaped(text: str) -> str:
    """Text of any kind, models write any, as one cell of a Markdown table."""
    return "<br>".join(re.sub(r"([\\`*_~$|<>&\[\]])", r"\\\1", text).splitlines())


def scaled(number: int, unit: str = "") -> str:
    """A number to three digits with its decimal prefix: 1.24 G."""
    value, prefixes = float(number), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    digits = f"{value:.3g}" if prefixes[0] else str(number)
    return f"{digits} {prefixes[0]}{unit}".rstrip()


def gib(size: int | float) -> str:
    """Bytes as memory is counted: 2.32 GiB."""
    return f"{size / GIB:.2f} GiB"
