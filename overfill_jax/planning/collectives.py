"""What chips say to each other in a step, read from the text of a compiled program."""

import collections
import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>\S+) \(.*\{\s*$")
_WHILE = re.compile(r" while\(.*condition=%?(?P<condition>[^,\s]+), body=%?(?P<body>[^,\s]+)")
_CALL = re.compile(r"(?:calls|to_apply)=%?([^,\s]+)")
_DEFINITION = re.compile(
    r"\s*(?P<root>ROOT )?%(?P<name>\S+) = .*? (?P<operation>[\w-]+)\((?P<rest>.*)"
)
_OPERAND = re.compile(r"%([^\s,()]+)")
_COLLECTIVE = re.compile(
    rf" = (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
    r".*channel_id=(?P<channel>\d+)"
)
_ARRAY = re.compile(r"\b(?P<kind>pred|[a-z]+?)(?P<bits>\d*)(?:e\w+)?\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one kind of collective in a step: how often it runs, and bytes of its results."""

    count: int
    bytes: int


def read_collectives(program: str) -> dict[str, Traffic]:
    """Collectives of a chip in one run of a compiled program, by kind.

    Args:
      program: `as_text()` of it.
    """
    entry, computations = _split(program)
    runs = _runs(entry, computations)
    # An asynchronous one is cut into pieces, which share the number of their channel.
    found: dict[tuple[str, str], Traffic] = {}
    for name, lines in computations.items():
        for line in lines:
            if runs[name] and (match := _COLLECTIVE.search(line)):
                key = match["kind"], match["channel"]
                seen = found.get(key, Traffic(0, 0))
                count = max(seen.count, runs[name])
                found[key] = Traffic(count, max(seen.bytes, runs[name] * _result_bytes(match)))
    return {
        kind: Traffic(sum(t.count for t in every), sum(t.bytes for t in every))
        for kind in KINDS
        if (every := [traffic for (one, _), traffic in found.items() if one == kind])
    }


def _split(program: str) -> tuple[str, dict[str, list[str]]]:
    """The name of the entry computation, and the lines of all by name."""
    entry, computations = "", {}
    lines: list[str] = []
    for line in program.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations[match["name"]] = []
            entry = match["name"] if match["entry"] else entry
        else:
            lines.append(line)
    return entry, computations


def _runs(entry: str, computations: dict[str, list[str]]) -> collections.Counter[str]:
    """How often each computation runs."""
    runs: collections.Counter[str] = collections.Counter()
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        runs[name] += times
        for line in computations.get(name, ()):
            if match := _WHILE.search(line):
                rounds = _rounds(computations[match["condition"]], computations[match["body"]])
                waiting.append((match["body"], times * rounds))
            else:
                waiting += [(callee, times) for callee in _CALL.findall(line)]
    return runs


def _rounds(condition: list[str], body: list[str]) -> int:
    """Of a loop whose condition is that a counter is less than a constant; 1 of any other.

    The counter starts at 0; an unrolled loop adds more than 1 to it.
    """
    test = _definitions(condition)
    compared = _operands(test["ROOT"])
    bound = next((_constant(test, name) for name in compared if _constant(test, name)), 1)
    counters = [
        test[name]["rest"] for name in compared if name in test and not _constant(test, name)
    ]
    index = re.search(r"index=(\d+)", counters[0]) if counters else None
    inside = _definitions(body)
    step = 1
    if index and inside["ROOT"]["operation"] == "tuple":
        updated = inside.get(_operands(inside["ROOT"])[int(index[1])])
        if updated and updated["operation"] == "add":
            step = next(filter(None, (_constant(inside, n) for n in _operands(updated))), 1)
    return -(-bound // step)


def _definitions(lines: list[str]) -> dict[str, re.Match[str]]:
    """Instructions by name, and the last as ROOT."""
    found = {}
    for line in lines:
        if match := _DEFINITION.match(line):
            found[match["name"]] = match
            if match["root"]:
                found["ROOT"] = match
    return found


def _operands(instruction: re.Match[str]) -> list[str]:
    return _OPERAND.findall(instruction["rest"].split(")")[0])


def _constant(definitions: dict[str, re.Match[str]], name: str) -> int:
    """The value of an integer constant; 0 of anything else."""
    found = definitions.get(name)
    is_constant = found is not None and found["operation"] == "constant"
    value = found["rest"].split(")")[0] if is_constant else ""
    return int(value) if value.isdecimal() else 0


def _result_bytes(collective: re.Match[str]) -> int:
    arrays = [
        # Predicates take a byte each.
        max(1, int(array["bits"] or 8) // 8)
        * math.prod(int(size) for size in array["shape"].split(",") if size)
        for array in _ARRAY.finditer(collective["result"])
    ]
    # What is started holds its operand beside its result, which is no smaller.
    return max(arrays) if collective["start"] else sum(arrays)
