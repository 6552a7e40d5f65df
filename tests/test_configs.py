"""Every declared key is read, every key that is read is declared, and every config loads."""

import ast
import importlib.util

import ml_collections
import pytest

from configs import default
from overfill_jax.errors import InputError
from overfill_jax.experiments.cells import cells_of
from overfill_jax.experiments.measures import check_measures
from overfill_jax.overrides import with_settings
from overfill_jax.stages import STAGES
from tests.conftest import REPOSITORY

EXPERIMENTS = sorted((REPOSITORY / "configs" / "experiments").glob("[!_]*.py"))
CONFIGS = sorted((REPOSITORY / "configs").glob("[!_]*.py")) + EXPERIMENTS
SECTIONS = {
    name
    for name, value in default.get_config().items()
    if isinstance(value, ml_collections.ConfigDict)
}


def declared() -> set[str]:
    keys = set()
    for section, value in default.get_config().items():
        if isinstance(value, ml_collections.ConfigDict):
            keys |= {f"{section}.{key}" for key in value}
        else:
            keys.add(section)
    return keys


def accesses() -> set[frozenset[str]]:
    """Every `config.section.key` in the package, as the set of keys that it may mean.

    Follows names: `c = config.section` in a module makes its every `c.key` one of these
    sections', and a parameter may be named after its section, as in `text.turns`.
    """
    found = set()
    for path in (REPOSITORY / "overfill_jax").rglob("*.py"):
        tree = ast.parse(path.read_text())
        bound = {
            node.value.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and _is_section(node.value)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value
            if _is_section(owner):
                sections = {owner.attr}
            elif isinstance(owner, ast.Name) and owner.id == "c":
                sections = bound
            elif isinstance(owner, ast.Name) and owner.id == "config":
                found.add(frozenset({node.attr}))
                continue
            else:
                continue
            found.add(frozenset(f"{section}.{node.attr}" for section in sections))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            found |= _through_parameters(function)
    return found


def _through_parameters(function: ast.FunctionDef) -> set[frozenset[str]]:
    named = {
        argument.arg
        for argument in function.args.args
        if argument.arg in SECTIONS and "ConfigDict" in ast.dump(argument)
    }
    return {
        frozenset({f"{node.value.id}.{node.attr}"})
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in named
    }


def _is_section(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "config"
        and node.attr in SECTIONS
    )


def test_every_declared_key_is_read():
    assert declared() - set().union(*accesses()) == set()


def test_every_key_that_is_read_is_declared():
    methods = {"items", "to_yaml"}
    sections = {key for key in accesses() if any("." in name for name in key)}
    unknown = [
        sorted(keys)
        for keys in sections
        if not keys & declared() and not {key.split(".")[1] for key in keys} & methods
    ]
    assert not unknown


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_are_locked(path):
    assert load(path).get_config().is_locked
    assert path.name == "default.py" or path.read_text().count("\n") <= 60


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_have_cells_and_measures(path):
    config = load(path).get_config()
    c = config.experiment
    assert c.name == path.stem
    check_measures(tuple(c.measures), tuple(c.systems))
    for cell in cells_of(config):
        for text in (*c.shared, *c.stages):
            stage, *settings = text.split()
            assert stage in STAGES
            changed = with_settings(cell.config, settings, "experiment.stages")
            if stage == "prune":  # which refuses to keep all
                amounts = ("hidden", "intermediate", "heads", "kv_heads", "depth")
                assert any(changed.prune[name] for name in amounts), cell.title


BASES = ("", "llama3_2_3b:aligned", "llama3_1_8b", "qwen2_5_7b", "multi30k", "gsm8k")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("base", BASES)
def test_stages_of_experiments_have_what_they_read(path, base):
    if path.stem == "alignment" and base in ("multi30k", "gsm8k"):
        pytest.skip("they have no aligned widths")
    config = load(path).get_config(*filter(None, [base]))
    for text in (*config.experiment.shared, *config.experiment.stages):
        stage = text.split()[0]
        if stage in ("calibrate", "train", "evaluate"):
            assert config[stage].source
        if stage == "benchmark":
            assert config.plan.model or config.evaluate.source


def test_experiments_take_other_models():
    config = load(EXPERIMENTS[0]).get_config("llama3_2_3b:aligned")
    assert config.prune.hidden == 1536
    with pytest.raises(ModuleNotFoundError, match=r"configs\.llama"):
        load(EXPERIMENTS[0]).get_config("llama")


def test_widths_that_are_compared_are_those_of_the_model():
    alignment = load(REPOSITORY / "configs/experiments/alignment.py")
    for base, paper, aligned in (
        ("quickstart", (0.74, 0.81), (32, 64)),
        ("llama3_2_3b:aligned", (0.45, 0.45), (1536, 5376)),
        ("qwen2_5_7b", (0.45, 0.45), (1792, 12032)),
    ):
        cells = cells_of(alignment.get_config(base))[:2]
        assert [cell.row for cell in cells] == ["reference", "aligned"]
        widths = [(cell.config.prune.hidden, cell.config.prune.intermediate) for cell in cells]
        assert widths == [paper, aligned]
    with pytest.raises(InputError, match=r"configs/gsm8k\.py: found no WIDTHS"):
        alignment.get_config("gsm8k")
