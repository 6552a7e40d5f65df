"""The house stays as it was drawn: imports point down the list, and stages never meet."""

import ast
import functools
from pathlib import Path

import pytest

from overfill_jax.stages import STAGES
from tests.conftest import REPOSITORY

# From the top floor down; a module may import from its own room and from those below.
ROOMS = (
    ("main", "experiments"),
    ("api", "stages"),
    ("reporting",),
    ("benchmarking",),
    ("evaluation", "planning"),
    ("inference",),
    ("training",),
    ("pruning",),
    ("data",),
    ("two_stage",),
    ("weights",),
    ("model",),
    ("chips", "compilation", "distributed"),
    ("errors", "files", "overrides", "record"),
)
PACKAGE = REPOSITORY / "overfill_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("overfill_jax.")}


def floor(dotted: str) -> int:
    room = dotted.split(".")[1]
    floors = [number for number, rooms in enumerate(ROOMS) if room in rooms]
    assert floors, f"{dotted}: its room is not in the list"
    return floors[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        return
    for imported in imports_of(path):
        assert floor(imported) >= floor(name_of(path)), f"{path} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_a_stage(path):
    for imported in imports_of(path):
        for stage in STAGES.values():
            assert not imported.startswith(f"{stage}."), f"{path} imports the stage {stage}"


def test_rooms_have_no_circles():
    """Within a room, too, files form no circle of imports."""
    graph = {
        name_of(path): {name_of(other) for other in MODULES if _imports(path, other)}
        for path in MODULES
    }
    done: set[str] = set()
    while ready := {name for name in graph if name not in done and graph[name] <= done}:
        done |= ready
    assert done == set(graph), f"circle among {sorted(set(graph) - done)}"


def _imports(path: Path, other: Path) -> bool:
    name = name_of(other)
    if other.name == "__init__.py" or other == path:
        return False
    return any(i == name or i.startswith(f"{name}.") for i in imports_of(path))


def test_every_module_says_what_it_owns():
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path}: no docstring"
