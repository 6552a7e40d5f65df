"""The quickstart's tasks: answers that follow from their prompts, splits that share no prompt."""

import itertools
import json
import re

import pytest

from overfill_jax.data import chat, procedural, tokenizers
from overfill_jax.data.tokenizer_training import train_tokenizer
from tests.builders import texts_of

COUNTS = {"test": 20, "validation": 20, "train": 300}


@pytest.fixture(scope="module")
def splits():
    return procedural.splits(COUNTS, seed=3)


def responses(splits, family):
    return [
        (row["prompt"], row["response"])
        for rows in splits.values()
        for row in rows
        if row["family"] == family
    ]


def test_recall_tells_the_facts_by_name(splits):
    for prompt, response in responses(splits, "recall"):
        facts = re.fullmatch(r"who has what: (.*)\. by name\?", prompt)[1].split(", ")
        assert response.split(", ") == sorted(facts)
        assert len({fact.split()[0] for fact in facts}) == len(facts) >= 2


def test_arithmetic_steps_follow_the_story(splits):
    signs = {"has": 1, "gets": 1, "wins": 1, "loses": -1, "gives": -1}
    for prompt, response in responses(splits, "arithmetic"):
        changes = re.findall(rf"({'|'.join(signs)}) (\d)", prompt)
        numbers = [signs[verb] * int(number) for verb, number in changes]
        *steps, total = re.split(r" so | ", response)
        assert len(steps) == len(numbers) - 1
        for count, step in enumerate(steps, start=1):
            before, change, after = re.fullmatch(r"(\d)([+-]\d)=(\d)", step).groups()
            assert int(before) == sum(numbers[:count])
            assert int(change) == numbers[count]
            assert int(after) == sum(numbers[: count + 1])
        assert 0 <= int(total) == sum(numbers) < 10


def test_translation_reorders_and_is_reversible(splits):
    english = {foreign: word for word, foreign in procedural.LEXICON.items()}
    assert len(english) == len(procedural.LEXICON)
    for prompt, response in responses(splits, "translation"):
        *nouns, verb = [english[word] for word in response.split()]
        starts = [i for i, word in enumerate(nouns) if word in procedural.NOUNS] + [len(nouns)]
        thing, subject = (nouns[a:b][::-1] for a, b in itertools.pairwise(starts))
        assert prompt == f"translate: {' '.join([*subject, verb, *thing])}."


def test_editing_obeys_its_instruction(splits):
    kinds = set()
    for prompt, response in responses(splits, "editing"):
        instruction, words = (part.split() for part in prompt.split(": "))
        kinds.add(instruction[0])
        edited = response.split()
        match instruction:
            case ["sort"]:
                assert edited == sorted(words)
            case ["reverse"]:
                assert edited == words[::-1]
            case ["drop", word, "from"]:
                words.remove(word)
                assert edited == words
            case ["swap", one, "and", two, "in"]:
                i, j = words.index(one), words.index(two)
                words[i], words[j] = words[j], words[i]
                assert edited == words
    assert kinds == {"sort", "reverse", "drop", "swap"}


def test_tracing_sets_what_the_lines_say(splits):
    for prompt, response in responses(splits, "tracing"):
        lines = re.fullmatch(r"run: (.*)\. by name\?", prompt)[1].split(", ")
        values, expected = {}, []
        for line in lines:
            _, name, source = line.split()
            values[name] = values.get(source, source)
            assert values[name] in procedural.NUMBERS
            expected.append(f"{name} {source}" + (f" {values[source]}" if source in values else ""))
        assert response.split(", ") == sorted(expected)


def test_splits_share_no_prompt_whatever_the_seed(splits):
    train = {row["prompt"] for row in splits["train"]}
    for split in ("test", "validation"):
        for seed in (3, 4):
            assert not train & {row["prompt"] for row in procedural.draw(split, 50, seed)}


def test_joined_rows_number_puzzles_of_one_family_and_split():
    joined = procedural.splits({"test": 40, "train": 40}, seed=3, joined=4)
    for split, rows in joined.items():
        counts = []
        for row in rows:
            prompts, responses = (
                re.split(r"(?:^| )#\d+ ", row[key])[1:] for key in ("prompt", "response")
            )
            numbers = re.findall(r"#(\d+) ", row["response"])
            assert numbers == [str(n) for n in range(1, len(prompts) + 1)]
            assert len(responses) == len(prompts)
            assert {procedural.split_of(prompt) for prompt in prompts} == {split}
            if row["family"] == "recall":
                for prompt, response in zip(prompts, responses, strict=True):
                    assert sorted(prompt[14:-10].split(", ")) == response.split(", ")
            counts.append(len(prompts))
        assert set(counts) == {1, 2, 3, 4}


def test_families_take_turns(splits):
    for split, count in COUNTS.items():
        assert [row["family"] for row in splits[split]] == list(procedural.FAMILIES) * count


def test_seed_decides_the_files(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        procedural.write_dataset(tmp_path / name, {"test": 2, "train": 5}, seed=seed)
    files = {name: (tmp_path / name / "train.jsonl").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["test.jsonl", "train.jsonl"]


def test_tokenizer_is_reproducible_and_reads_every_family(tmp_path, splits):
    for name in "ab":
        (tmp_path / name).mkdir()
        train_tokenizer(texts_of(splits["train"]), 256, tmp_path / name)
    models = [(tmp_path / name / "tokenizer.model").read_bytes() for name in "ab"]
    assert models[0] == models[1]

    tokenizer = tokenizers.load_tokenizer(tmp_path / "a")
    template = chat.load_template(tmp_path / "a")
    spelled = {tokenizer.encode(text)[0] for text in ("<|user|>", "<|assistant|>", "<|end|>")}
    assert len(spelled) == 3
    # Transformers ends an answer where this file says.
    generation = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert (generation["eos_token_id"],) == tokenizer.stop_ids
    assert len(tokenizer.encode("47")) == 1 + 2  # the space, and a token for each digit
    for row in splits["test"]:
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
        prompt, answer = chat.encode_conversation(messages, tokenizer, template)
        assert len(prompt) <= 64 and len(answer) <= 40
        assert tokenizer.decode(prompt) == row["prompt"]
        assert tokenizer.decode(answer) == row["response"]
        assert answer[-1] in tokenizer.stop_ids
        assert prompt[-1] in spelled
