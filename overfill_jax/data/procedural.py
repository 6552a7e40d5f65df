"""The quickstart's own tasks: five families of short puzzles that mirror the paper's benchmarks.

In every family the work is to understand the prompt; the answer then only has to be written down.

| family        | like     | prompt -> response                                                |
|---------------|----------|-------------------------------------------------------------------|
| `recall`      | NQ       | who has what, and some of the names -> what these have            |
| `arithmetic`  | GSM8K    | a short story with numbers -> its steps, written out, and the sum |
| `translation` | WMT      | an English sentence -> an invented language with its own order    |
| `editing`     | IFEval   | an instruction and a list of words -> the edited list             |
| `tracing`     | CRUXEval | a small program of assignments -> the final values                |

This file also writes them as instruction data and trains the tokenizer they are read with.
"""

import io
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from overfill_jax import files

Row = dict[str, str]  # "prompt", "response", "family": a line of instruction data.

PEOPLE = ("Ann", "Bob", "Cid", "Dan", "Eva", "Fay", "Gus", "Hal")
COLOURS = ("red", "blue", "grey", "pink", "gold", "tan", "lime", "jet")
THINGS = ("bag", "cup", "fan", "hat", "jar", "key", "map", "net", "pen", "rug")
VARIABLES = ("a", "b", "c", "d", "e", "f", "g", "h")
GAINS, LOSSES = ("gets", "wins"), ("loses", "gives")

NOUNS = {"man": "oro", "cat": "mir", "dog": "vek", "bird": "pilu", "fox": "zan", "cow": "hund"}
VERBS = {"sees": "tova", "likes": "kesa", "finds": "runa", "eats": "mava", "hears": "siva"}
ADJECTIVES = dict(
    zip(COLOURS, ("rok", "bul", "gam", "pif", "dor", "tek", "lum", "jut"), strict=True)
)
LEXICON = {**NOUNS, **VERBS, **ADJECTIVES}

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>"
    "{% else %}<|user|>{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def recall(rng: np.random.Generator) -> tuple[str, str]:
    """Who has what; up to three of the people are asked about, in another order."""
    people = _pick(rng, PEOPLE, rng.integers(2, 6))
    owned = {person: f"{rng.choice(COLOURS)} {rng.choice(THINGS)}" for person in people}
    asked = _pick(rng, people, min(len(people), 3))
    facts = ", ".join(f"{person} {thing}" for person, thing in owned.items())
    answer = ", ".join(f"{person} {owned[person]}" for person in asked)
    return f"who has what: {facts}. and {', '.join(asked)}?", answer


def arithmetic(rng: np.random.Generator) -> tuple[str, str]:
    """Two people win and lose things in turn; the count of one is worked out step by step."""
    asked, other = _pick(rng, PEOPLE, 2)
    count = {person: int(rng.integers(1, 10)) for person in (asked, other)}
    story = [f"{person} has {count[person]}" for person in _pick(rng, (asked, other), 2)]
    own, foreign = rng.integers(1, 4), rng.integers(0, 3)
    steps: list[str] = []
    for person in rng.permutation([asked] * own + [other] * foreign):
        before = count[person]
        after = int(rng.choice([n for n in range(10) if n != before]))
        change, gains = abs(after - before), after > before
        count[person] = after
        story.append(f"{person} {rng.choice(GAINS if gains else LOSSES)} {change}")
        if person == asked:
            steps.append(f"{before}{'+' if gains else '-'}{change}={after}")
    return f"how many has {asked}? {', '.join(story)}.", f"{' '.join(steps)} so {count[asked]}"


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
    """Assignments of digits and of earlier variables, traced line by line to what is printed."""
    values: dict[str, int] = {}
    program, trace = [], []
    for name in _pick(rng, VARIABLES, rng.integers(3, 7)):
        source = str(rng.integers(10))
        if values and rng.random() < 0.5:
            source = str(rng.choice(tuple(values)))
        values[name] = values[source] if source in values else int(source)
        program.append(f"{name}={source};")
        trace.append(f"{name}={values[name]};")
    printed = _pick(rng, tuple(values), 2)
    answer = ",".join(str(values[name]) for name in printed)
    return f"run: {''.join(program)} print {','.join(printed)}", f"{''.join(trace)} {answer}"


FAMILIES: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    function.__name__: function for function in (recall, arithmetic, translation, editing, tracing)
}


def splits(counts: Mapping[str, int], seed: int) -> dict[str, list[Row]]:
    """Draws the rows of every split; the families take turns in them.

    Args:
      counts: for each of "train", "validation" and "test" that is wanted, its rows per family.
      seed: of all draws; the same seed gives the same rows. No prompt of one split occurs in
        another, of whatever seed (see `split_of`).
    """
    return {split: draw(split, count, seed) for split, count in counts.items()}


def draw(split: str, count: int, seed: int) -> list[Row]:
    """`count` rows of each family, a row of every family in turn."""
    by_family = [_draw_family(family, split, count, seed) for family in FAMILIES]
    return [row for turn in zip(*by_family, strict=True) for row in turn]


def split_of(prompt: str) -> str:
    """The split that a prompt belongs to, by its hash: a model never meets a test prompt before."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(prompt.encode()) % 16, "train")


def write_dataset(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    """Writes `SPLIT.jsonl` for every split of `counts` (see `splits`), all of them or none."""
    with files.replace_folder(folder) as temporary:
        for split, rows in splits(counts, seed).items():
            lines = (json.dumps(row) + "\n" for row in rows)
            (temporary / f"{split}.jsonl").write_text("".join(lines))


def train_tokenizer(rows: Iterable[Row], vocab_size: int, folder: Path) -> None:
    """Trains a sentencepiece BPE on `rows`; writes `tokenizer.model` and `tokenizer_config.json`.

    Digits are tokens of their own, and so are the chat template's headers and its end of turn. The
    same rows give the same bytes.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(row[key] for row in rows for key in ("prompt", "response")),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        num_threads=1,  # The file's bytes depend on the number of threads.
        character_coverage=1.0,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        unk_id=1,
        eos_id=2,
        eos_piece=END,
        bos_id=-1,
        control_symbols=[USER, ASSISTANT],
        minloglevel=2,
    )
    with files.replace_file(folder / "tokenizer.model") as temporary:
        temporary.write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": None,
        "eos_token": END,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": [USER, ASSISTANT],
        "chat_template": CHAT_TEMPLATE,
    }
    files.write_json(folder / "tokenizer_config.json", config)


def _draw_family(family: str, split: str, count: int, seed: int) -> list[Row]:
    rng = np.random.default_rng([seed, *split.encode(), *family.encode()])
    rows: list[Row] = []
    while len(rows) < count:
        prompt, response = FAMILIES[family](rng)
        if split_of(prompt) == split:
            rows.append({"prompt": prompt, "response": response, "family": family})
    return rows


def _pick(rng: np.random.Generator, items: Sequence[str], count: int | np.integer) -> list[str]:
    return [str(item) for item in rng.choice(items, size=count, replace=False)]
