"""The Colab notebook is clean, names only what there is, and runs from top to bottom."""

import ast
import json
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest

import overfill_jax
from overfill_jax.stages import STAGES
from tests.conftest import REPOSITORY
from tests.test_configs import declared

PATH = REPOSITORY / "launch" / "colab.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
CODE = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}
TEXT = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")


def blocks(language):
    """What the texts show of a language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def nodes(kind):
    """Of all Python, shown or run."""
    trees = map(ast.parse, [*CODE.values(), *blocks("python")])
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, kind)]


def test_it_is_valid_and_without_outputs():
    nbformat.validate(NOTEBOOK)
    assert (NOTEBOOK.nbformat, NOTEBOOK.nbformat_minor) == (4, 5)
    assert NOTEBOOK.metadata.kernelspec.name == "python3"
    assert 1 <= len(CODE) <= 15
    for cell in NOTEBOOK.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    # As Jupyter writes it, so that saving it again changes nothing; ids of words, not at random.
    assert PATH.read_text() == nbformat.writes(NOTEBOOK) + "\n"
    assert all(re.fullmatch(r"[a-z-]+", cell.id) for cell in NOTEBOOK.cells)


def test_it_uses_public_names_alone():
    imported = {alias.name for node in nodes(ast.Import) for alias in node.names}
    assert {name for name in imported if name.startswith("overfill_jax")} == {"overfill_jax"}
    modules = {node.module for node in nodes(ast.ImportFrom)}
    assert modules == {"pathlib", "IPython.display", "configs"}
    used = {
        node.attr
        for node in nodes(ast.Attribute)
        if isinstance(node.value, ast.Name) and node.value.id == "overfill_jax"
    }
    assert used
    assert used <= set(overfill_jax.__all__)


def test_its_settings_and_stages_exist():
    """Those of `config` and `large` in Python, and those of the command line."""
    configs, keys = ("config", "large"), set()
    for node in nodes(ast.Attribute):
        owner = node.value
        if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            keys |= {f"{owner.attr}.{node.attr}"} if owner.value.id in configs else set()
    keys |= set(re.findall(r"--config\.(\w+\.\w+)", TEXT))
    assert "train.steps" in keys
    assert keys <= declared()
    loops = [node.iter for node in nodes(ast.For) if getattr(node.target, "id", "") == "stage"]
    stages = {name for loop in loops for name in ast.literal_eval(loop)}
    for node in nodes(ast.Call):
        if ast.unparse(node.func).endswith("run_stage") and isinstance(node.args[0], ast.Constant):
            stages.add(node.args[0].value)
    assert stages >= {"data", "train", "evaluate", "plan"}
    assert stages <= STAGES.keys()


def test_the_files_that_it_names_exist():
    named = re.findall(r"\b(?:launch|configs)/\w+\.\w+", TEXT)
    assert "launch/tpu_pod.sh" in named
    assert not [name for name in named if not (REPOSITORY / name).is_file()]
    for name in re.findall(r"section \*([^*]+)\*|under \*([^*]+)\*", TEXT):
        assert f"## {''.join(name)}\n" in (REPOSITORY / "README.md").read_text()


def test_the_commands_that_it_shows_are_understood():
    (command,) = blocks("bash")
    assert "--dry-run" in command
    done = subprocess.run(
        ["bash", "-ec", command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "queued-resources create overfill" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("there", "commands"),
    [("package", []), ("notebook", ["pip"]), ("nothing", ["git", "pip"])],
)
def test_what_is_missing_is_installed(there, commands, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = REPOSITORY
    if there != "package":
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        folder = tmp_path / "overfill_jax"
    if there == "notebook":
        (folder / "launch" / "quickstart_model").mkdir(parents=True)
    monkeypatch.chdir(folder / "launch" if there == "notebook" else tmp_path)
    exec(compile(CODE["install"], "install", "exec"), {})
    names = {"git": "git", sys.executable: "pip"}
    assert [names[command[0]] for command in called] == commands
    assert all(str(folder) in str(command[-1]) for command in called)
    assert sys.path[0] == str(folder)
    assert capsys.readouterr().out == f"overfill_jax from {folder}\n"


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    notebook = nbformat.read(PATH, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said, pictures = {}, set()
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        assert "error" not in [output.output_type for output in outputs], cell.id
        said[cell.id] = "".join(output.text for output in outputs if "text" in output)
        if any("image/png" in output.get("data", {}) for output in outputs):
            pictures.add(cell.id)
    assert said["install"] == f"overfill_jax from {REPOSITORY}\n"
    assert pictures == {"importance", "train", "compare", "plan"}

    (workdir,) = (tmp_path / "runs").iterdir()
    found = json.loads((workdir / "report" / "summary.json").read_text())
    accuracy, loss = found["accuracy"], found["loss"]
    assert accuracy["full"] >= accuracy["two_stage"] > accuracy["pruned_tuned"] + 0.2
    assert loss["two_stage"] < 0.5 * min(loss["pruned_tuned"], loss["decoder_alone"])
    assert f"two-stage gets {accuracy['two_stage']:.0%} of the answers right" in said["compare"]
    assert f"the prompts itself, {accuracy['pruned_tuned']:.0%}." in said["compare"]
    for name in ("two-stage", "pruned, tuned", "decoder alone"):
        assert re.search(rf"^{name} +\S", said["answer"], re.MULTILINE)
    assert said["plan"].startswith("On one v5e, batch 1, 512 in / 1,024 out")
