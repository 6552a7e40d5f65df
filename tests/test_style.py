"""Formatters and linters, with the settings of pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("format", "--check"), ("check",)], ids=lambda a: a[0])
def test_ruff(arguments):
    check(sys.executable, "-m", "ruff", *arguments, "--no-cache", ".")


def test_shellcheck():
    scripts = [".ci/run", *(str(path) for path in (REPOSITORY / "launch").glob("*.sh"))]
    check(str(Path(sys.executable).with_name("shellcheck")), "--external-sources", *scripts)
