"""Every declared key is read, every key that is read is declared, and every config loads."""

import ast
import importlib.util

import ml_collections
import pytest

from configs import default
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("[!_]*.py"))
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


def keys_read() -> set[str]:
    """Follows `config.section.key`, and `c.key` where the function binds `c = config.section`
    or takes `c` from a caller that did; a loop over names that ends in `c[key]` counts as well."""
    found = set()
    for path in (REPOSITORY / "overfill_jax").rglob("*.py"):
        tree = ast.parse(path.read_text())
        bound = {
            node.value.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and _is_section(node.value)
        }
        names = {"c", *bound}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            if isinstance(node.value, ast.Name) and node.value.id == "config":
                found.add(node.attr)
            elif _is_section(node.value):
                found.add(f"{node.value.attr}.{node.attr}")
            elif isinstance(node.value, ast.Name) and node.value.id in names:
                sections = bound or {node.value.id}
                found |= {f"{section}.{node.attr}" for section in sections}
    return found


def _is_section(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "config"
        and node.attr in SECTIONS
    )


def test_every_declared_key_is_read():
    assert declared() - keys_read() == set()


def test_every_key_that_is_read_is_declared():
    unknown = {key for key in keys_read() - declared() if key.split(".")[0] in SECTIONS}
    assert unknown - SECTIONS - {f"{s}.items" for s in SECTIONS} == set()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_are_locked(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    assert config.is_locked
    assert path.name == "default.py" or path.read_text().count("\n") <= 60
