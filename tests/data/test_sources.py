"""Sources and mixtures as they are written, and what an epoch takes of them."""

import fractions
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs import default
from overfill_jax.data import make, tfds_rows
from overfill_jax.data.sources import Source, mixed_lines, parse_sources, passes, read_lines
from overfill_jax.errors import InputError


def write(path, count):
    path.write_text("".join(json.dumps({"n": i}) + "\n" for i in range(1, count + 1)))
    return path


def numbers(lines):
    return [json.loads(line)["n"] for _, line in lines]


def test_sources_as_they_are_written():
    one, half = fractions.Fraction(1), fractions.Fraction(1, 2)
    assert parse_sources("a.jsonl") == (Source(Path("a.jsonl"), one),)
    wanted = (Source(Path("a b.jsonl"), half), Source(Path("c"), 4 * half))
    assert parse_sources(" a b.jsonl * 0.5,c*2") == wanted
    assert parse_sources("a*1/2") == (Source(Path("a"), half),)
    assert parse_sources("*.jsonl*1") == (Source(Path("*.jsonl"), one),)


@pytest.mark.parametrize("weight", ["x", "", "0", "-1", "nan", "inf", "1/0", "1001"])
def test_bad_weights(weight):
    with pytest.raises(InputError, match=r"source b: found weight '.*', expected a number above"):
        parse_sources(f"a*1, b*{weight}")


@pytest.mark.parametrize("text", ["", "a,", ",a", "*2"])
def test_a_source_without_a_path(text):
    with pytest.raises(InputError, match=r"expected PATH or PATH\*WEIGHT"):
        parse_sources(text)


def test_unknown_source(tmp_path):
    with pytest.raises(InputError, match="none: no such source, expected a JSONL file or a TFDS"):
        read_lines(tmp_path / "none", "train")


@pytest.mark.parametrize("weight", ["1", "1/3", "0.7", "2.5", "1/100"])
def test_passes_take_everything_equally_often(weight):
    weight = fractions.Fraction(weight)
    epochs, count = 100, 7
    taken = [list(passes(count, weight, epoch, (0,))) for epoch in range(epochs)]
    sizes = [sum(len(indices) for _, indices in epoch) for epoch in taken]
    assert all(abs(size - weight * count) < 1 for size in sizes)
    by_pass: dict[int, list[int]] = {}
    for epoch in taken:
        for number, indices in epoch:
            assert (np.diff(indices) > 0).all()
            by_pass.setdefault(number, []).extend(indices.tolist())
    whole = [sorted(indices) for indices in by_pass.values()][:-1]
    assert whole == [list(range(count))] * len(whole)
    assert sum(sizes) == int(weight * count * epochs)


def test_passes_depend_on_the_seed():
    half = fractions.Fraction(1, 2)
    first, again, other = (next(passes(90, half, 0, seed))[1] for seed in ((1,), (1,), (2,)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_passes_have_orders_of_their_own():
    halves = [next(passes(90, fractions.Fraction(1, 2), epoch, (0,)))[1] for epoch in (0, 2)]
    assert not np.array_equal(*halves)


def test_lines_of_a_mixture(tmp_path):
    a, b = write(tmp_path / "a.jsonl", 10), write(tmp_path / "b.jsonl", 3)
    assert list(mixed_lines(parse_sources(str(a)), "train", 0)) == read_lines(a, "train")
    mixture = parse_sources(f"{a}*0.5, {b}*2")
    lines = list(mixed_lines(mixture, "train", 0))
    assert [row for row, _ in lines] == list(range(1, 12))
    found = numbers(lines)
    assert (len(set(found[:5])), sorted(found[5:])) == (5, [1, 1, 2, 2, 3, 3])
    assert lines == list(mixed_lines(mixture, "train", 0))
    assert lines != list(mixed_lines(mixture, "train", 1))
    with pytest.raises(InputError, match="its weight takes less than one line"):
        list(mixed_lines(parse_sources(f"{b}*0.1"), "train", 0))


def run_data(workdir, **sources):
    config = default.get_config()
    config.data.update(sources)
    make.run(config, workdir)
    return workdir / "data"


def test_the_data_stage_builds_mixtures_of_files_and_folders(tmp_path):
    a, b = write(tmp_path / "a.jsonl", 10), write(tmp_path / "b.jsonl", 4)
    folder = run_data(tmp_path / "one", train=str(a), validation=str(b))
    mixed = run_data(tmp_path / "two", train=f"{folder}*0.5, {b}*2", validation=f"{folder}")
    counts = Counter(numbers(tfds_rows.read_lines(mixed, "train")))
    assert sum(counts.values()) == 5 + 8
    assert all(counts[i] >= 2 for i in range(1, 5))
    assert numbers(read_lines(mixed, "validation")) == [1, 2, 3, 4]
    with pytest.raises(InputError, match="half: not a whole TFDS folder"):
        (tmp_path / "half").mkdir()
        run_data(tmp_path / "three", train=f"{a}, {tmp_path / 'half'}*2")
    assert not (tmp_path / "three" / "data").exists()
