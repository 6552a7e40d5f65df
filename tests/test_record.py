"""What is written of a run."""

import re
import tomllib

from overfill_jax import record
from tests.conftest import REPOSITORY


def test_versions_name_the_scoring_packages_that_are_installed(tmp_path, monkeypatch):
    # Of a package that is installed but has no module: none is imported for its version.
    folder = tmp_path / "made_up_scorer-9.8.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-scorer\nVersion: 9.8\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(record, "SCORING", ("absent-scorer", "made-up-scorer"))
    assert record.versions().endswith(", made-up-scorer 9.8")
    assert "absent-scorer" not in record.versions()


def test_all_packages_that_score_are_recorded():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*extras["evaluation"], *extras["harness"]]
    assert {re.match(r"[\w-]+", one)[0] for one in wanted} == set(record.SCORING)
