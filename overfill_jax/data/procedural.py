"""The quickstart's own tasks: five families of short puzzles that mirror the paper's benchmarks.

In every family the work is to understand the prompt; the answer then only has to be written down.

| family        | like     | prompt -> response                                                |
|---------------|----------|-------------------------------------------------------------------|
| `recall`      | NQ       | who has what, and some of the names -> what these have            |
| `arithmetic`  | GSM8K    | a short story with numbers -> its steps, written out, and the end |
| `translation` | WMT      | an English sentence -> an invented language with its own order    |
| `editing`     | IFEval   | an instruction and a list of words -> the edited list             |
| `tracing`     | CRUXEval | a small program of assignments -> the final values                |

This file also writes them as instruction data.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from overfill_jax import files

Row = dict[str, str]  # "prompt", "response", "family": a line of instruction data.

PEOPLE = ("Ann", "Bob", "Cid", "Dan", "Eva", "Fay", "Gus", "Hal")
COLOURS = ("red", "blue", "grey", "pink", "gold", "tan", "lime", "jet")
THINGS = ("bag", "cup", "fan", "hat", "jar", "key", "map", "net", "pen", "rug")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VARIABLES = ("a", "b", "c", "d", "e", "f", "g", "h")
GAINS, LOSSES = ("gets", "wins"), ("loses", "gives")

NOUNS = {"man": "oro", "cat": "mir", "dog": "vek", "bird": "pilu", "fox": "zan", "cow": "hund"}
VERBS = {"sees": "tova", "likes": "kesa", "finds": "runa", "eats": "mava", "hears": "siva"}
ADJECTIVES = dict(
    zip(COLOURS, ("rok", "bul", "gam", "pif", "dor", "tek", "lum", "jut"), strict=True)
)
LEXICON = {**NOUNS, **VERBS, **ADJECTIVES}


def recall(rng: np.random.Generator) -> tuple[str, str]:
    """Who has what, to be told again in the order of the names."""
    people = _pick(rng, PEOPLE, rng.integers(2, 7))
    colours, things = _pick(rng, COLOURS, len(people)), _pick(rng, THINGS, len(people))
    facts = [" ".join(fact) for fact in zip(people, colours, things, strict=True)]
    return f"who has what: {', '.join(facts)}. by name?", ", ".join(sorted(facts))


def arithmetic(rng: np.random.Generator) -> tuple[str, str]:
    """Somebody wins and loses things in turn; how many are left is worked out step by step."""
    count = int(rng.integers(1, 10))
    story = [f"{rng.choice(PEOPLE)} has {count}"]
    steps: list[str] = []
    for _ in range(rng.integers(2, 6)):
        after = int(rng.choice([n for n in range(10) if n != count]))
        change, gains = abs(after - count), after > count
        story.append(f"{rng.choice(GAINS if gains else LOSSES)} {change}")
        steps.append(f"{count}{'+' if gains else '-'}{change}={after}")
        count = after
    return f"how many are left: {', '.join(story)}.", f"{' '.join(steps)} so {count}"


def translation(rng: np.random.Generator) -> tuple[str, str]:
    """Subject verb object becomes object subject verb, and adjectives move behind their nouns."""

    def phrase() -> list[str]:
        adjectives = _pick(rng, tuple(ADJECTIVES), rng.integers(0, 3))
        return [*adjectives, str(rng.choice(tuple(NOUNS)))]

    subject, verb, thing = phrase(), [str(rng.choice(tuple(VERBS)))], phrase()
    source = subject + verb + thing
    target = thing[::-1] + subject[::-1] + verb
    return f"translate: {' '.join(source)}.", " ".join(LEXICON[word] for word in target)


def editing(rng: np.random.Generator) -> tuple[str, str]:
    """One of four instructions about a list of distinct words."""
    words = _pick(rng, THINGS, rng.integers(3, 8))
    one, two = _pick(rng, words, 2)
    exchanged = {one: two, two: one}
    instruction, edited = (
        ("sort", sorted(words)),
        ("reverse", words[::-1]),
        (f"drop {one} from", [word for word in words if word != one]),
        (f"swap {one} and {two} in", [exchanged.get(word, word) for word in words]),
    )[rng.integers(4)]
    return f"{instruction}: {' '.join(words)}", " ".join(edited)


def tracing(rng: np.random.Generator) -> tuple[str, str]:
    """Variables are set to numbers or to such variables; each is traced to its value, by name."""
    numbers: dict[str, str] = {}
    program, trace = [], []
    for name in _pick(rng, VARIABLES, rng.integers(3, 7)):
        if numbers and rng.random() < 0.5:
            source = str(rng.choice(tuple(numbers)))
            trace.append(f"{name} {source} {numbers[source]}")
        else:
            source = numbers[name] = str(rng.choice(NUMBERS))
            trace.append(f"{name} {source}")
        program.append(f"set {name} {source}")
    return f"run: {', '.join(program)}. by name?", ", ".join(sorted(trace))


FAMILIES: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    function.__name__: function for function in (recall, arithmetic, translation, editing, tracing)
}


def splits(counts: Mapping[str, int], seed: int, joined: int = 1) -> dict[str, list[Row]]:
    """Draws the rows of every split; the families take turns in them.

    Args:
      counts: for each of "train", "validation" and "test" that is wanted, its rows per family.
      seed: of all draws; the same seed gives the same rows. No puzzle of one split occurs in
        another, of whatever seed (see `split_of`).
      joined: a row asks up to so many puzzles of its family, one behind the other.
    """
    return {split: draw(split, count, seed, joined) for split, count in counts.items()}


def draw(split: str, count: int, seed: int, joined: int = 1) -> list[Row]:
    """`count` rows of each family, a row of every family in turn."""
    by_family = [_draw_family(family, split, count, seed, joined) for family in FAMILIES]
    return [row for turn in zip(*by_family, strict=True) for row in turn]


def split_of(prompt: str) -> str:
    """The split that a prompt belongs to, by its hash: a model never meets a test prompt before."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(prompt.encode()) % 16, "train")


def write_dataset(folder: Path, counts: Mapping[str, int], seed: int, joined: int = 1) -> None:
    """Writes `SPLIT.jsonl` for every split of `counts` (see `splits`), all of them or none."""
    with files.replace_folder(folder) as temporary:
        for split, rows in splits(counts, seed, joined).items():
            lines = (json.dumps(row) + "\n" for row in rows)
            (temporary / f"{split}.jsonl").write_text("".join(lines))


def _draw_family(family: str, split: str, count: int, seed: int, joined: int) -> list[Row]:
    rng = np.random.default_rng([seed, *split.encode(), *family.encode()])

    def puzzle() -> tuple[str, str]:
        while True:
            prompt, response = FAMILIES[family](rng)
            if split_of(prompt) == split:
                return prompt, response

    rows: list[Row] = []
    for _ in range(count):
        prompt, response = puzzle()
        if joined > 1:
            others = [puzzle() for _ in range(rng.integers(joined))]
            prompt, response = map(_numbered, zip((prompt, response), *others, strict=True))
        rows.append({"prompt": prompt, "response": response, "family": family})
    return rows


def _numbered(parts: Sequence[str]) -> str:
    """As "#1 ... #2 ...", which lets an answer say where it is."""
    return " ".join(f"#{number} {part}" for number, part in enumerate(parts, 1))


def _pick(rng: np.random.Generator, items: Sequence[str], count: int | np.integer) -> list[str]:
    return [str(item) for item in rng.choice(items, size=count, replace=False)]
