"""What is written of a run."""

import datetime
import re
import tomllib

import pytest

from configs.default import get_config
from overfill_jax import record
from overfill_jax.errors import InputError
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


@pytest.mark.parametrize(
    ("stage", "changes", "name"),
    [
        ("prune", {}, "prune"),
        ("train", {"train.method": "pruned"}, "train.pruned"),
        ("train", {"train.freeze": "none"}, "train.joint"),
        ("score", {"score.task": "gsm8k"}, "score.gsm8k"),
        ("score", {}, "score"),
        ("benchmark", {"benchmark.subject": "a/b"}, "benchmark.a_b"),
        ("experiment", {"experiment.name": "ratio"}, "experiment.ratio"),
    ],
)
def test_each_of_the_many_things_that_a_stage_does_keeps_its_settings(
    tmp_path, stage, changes, name
):
    config = get_config()
    config.update_from_flattened_dict(changes)
    assert record.config_path(tmp_path, stage, config) == tmp_path / "configs" / f"{name}.yaml"


def test_settings_are_read_as_they_were_written(tmp_path):
    config = get_config()
    config.train.source = "a: 'b'\n\n# c"
    record.write_config(tmp_path / "train.yaml", config)
    found = record.read_config(tmp_path / "train.yaml")
    assert found.settings == config.to_dict()
    assert found.versions == record.versions()
    assert datetime.datetime.fromisoformat(found.when).tzinfo is not None
    assert record.flat(found.settings) == record.flat(config)
    assert record.flat(config)["train.source"] == config.train.source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed: 1\n",
        "a: 1\nb: 2\nseed: 1\n",
        "# when\n# versions\n",
        "# when\n# versions\n[1\n",
        "# when\n# versions\n!!python/object/apply:os.mkdir [made]\n",
    ],
)
def test_anything_else_is_refused_and_does_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(InputError, match=r"train\.yaml: "):
        record.read_config(tmp_path / "train.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["train.yaml"]
