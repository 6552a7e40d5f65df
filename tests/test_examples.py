"""The examples of the public names and of the README run, and say what is so."""

import contextlib
import dataclasses
import doctest
import inspect
import operator
import re
import shutil
from pathlib import Path

import pytest

import overfill_jax
from configs import default
from overfill_jax.weights.hugging_face_export import check_width
from tests.builders import CONFIG
from tests.conftest import REPOSITORY


def test_the_names_are_about_a_dozen():
    assert 10 <= len(overfill_jax.__all__) <= 14


@pytest.fixture(scope="module")
def in_the_middle(tmp_path_factory):
    """A folder like the repository, and the names that the first example leaves."""
    folder = tmp_path_factory.mktemp("examples")
    model = Path("launch", "quickstart_model")
    shutil.copytree(REPOSITORY / model, folder / model)
    with contextlib.chdir(folder):
        names = run_example("overfill_jax", overfill_jax.__doc__, {})
    return folder, names


METHODS = [
    f"TwoStage.{name}"
    for name in ("prefill", "extend", "generate", "warm_up", "stream", "engine", "encode")
]


@pytest.mark.parametrize("name", [*overfill_jax.__all__, *METHODS])
def test_every_name_has_an_example_that_runs(name, in_the_middle):
    folder, names = in_the_middle
    with contextlib.chdir(folder):
        run_example(name, operator.attrgetter(name)(overfill_jax).__doc__, names)


def test_the_notebook_of_the_readme_runs(in_the_middle):
    folder, _ = in_the_middle
    readme = (REPOSITORY / "README.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    # The quickstart model: 8 heads, so that of its 128 channels transformers loads no fewer.
    for shown, here in (
        ('"Llama-3.2-3B-Instruct"', '"launch/quickstart_model"'),
        ("hidden=1536", "hidden=128"),
        ("intermediate=5376", "intermediate=160"),
        ("engine(slots=32, length=2048,", "engine(slots=2, length=256,"),
    ):
        assert code.count(shown) == 1
        code = code.replace(shown, here)
    (folder / "wikitext.txt").write_text("Ann has 3.\n\nBob has 4 and wins 5.\n")
    names = {}
    with contextlib.chdir(folder):
        exec(compile(code, "README.md", "exec"), names)
        assert overfill_jax.load("hf_folder").config.intermediate_size == 160
    assert len(names["answers"]) == 1
    assert len(names["texts"]) == 2


def test_the_width_of_the_readme_is_one_that_transformers_loads():
    widths = set(re.findall(r"hidden=(\d+)", (REPOSITORY / "README.md").read_text()))
    heads = {"model_type": "llama", "num_heads": 24, "num_kv_heads": 8, "head_dim": 128}
    for width in map(int, widths):
        check_width(dataclasses.replace(CONFIG, hidden_size=width, **heads))
    with pytest.raises(overfill_jax.InputError, match="1689 is not a multiple of the 24 heads"):
        check_width(dataclasses.replace(CONFIG, hidden_size=1689, **heads))


def run_example(name, text, names):
    """Runs it with the given names; returns those names and the new ones."""
    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    said = []
    runner = doctest.DocTestRunner()
    failed, tried = runner.run(example, out=said.append, clear_globs=False)
    assert tried, f"{name}: no example"
    assert not failed, "".join(said)
    return example.globs


def test_defaults_are_those_of_the_config():
    config = default.get_config()
    declared = {
        overfill_jax.calibrate: config.calibrate,
        overfill_jax.prune: config.prune,
        overfill_jax.TwoStage.generate: config.generate,
        overfill_jax.TwoStage.stream: config.generate,
        overfill_jax.export: config.export,
    }
    for function, section in declared.items():
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not inspect.Parameter.empty and name in section:
                assert parameter.default == section[name], (function, name)
