import json
import logging

import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.systems import (
    FULL,
    SYSTEMS,
    choose_fitting,
    find_systems,
    missing_folders,
)


def make(workdir, *folders):
    for folder in folders:
        (workdir / folder).mkdir(parents=True)


def test_the_full_model_is_required(tmp_path):
    make(tmp_path, "decoder")
    with pytest.raises(InputError, match="full: no such folder, expected the full model"):
        find_systems(tmp_path)


def test_systems_follow_from_the_folders(tmp_path):
    make(tmp_path, "full", "pruned", "decoder", "baselines/scratch")
    present, missing = find_systems(tmp_path)
    assert [system.name for system in present] == [
        "full",
        "two_stage",
        "scratch",
        "decoder_alone",
        "pruned_untrained",
        "pruned_two_stage_untrained",
    ]
    assert {system.name for system in missing} == {"full_tuned", "joint", "pruned_tuned"}
    assert len(present) + len(missing) == len(SYSTEMS)


def test_missing_folders_are_named_once(tmp_path):
    assert missing_folders(FULL, tmp_path) == ["full"]


def record(workdir, folder, fingerprint, **origin):
    """What `choose_fitting` reads of a model."""
    (workdir / folder).mkdir(parents=True, exist_ok=True)
    config = {"fingerprint": fingerprint} | ({"origin": origin} if origin else {})
    (workdir / folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def workdir(tmp_path):
    """Every system, all of full model "a" and its cut "b"."""
    record(tmp_path, "full", "a")
    record(tmp_path, "pruned", "b", full="a", first_token=None)
    record(tmp_path, "decoder", "c", full="a", first_token="full", pruned="b")
    record(tmp_path, "joint/full", "d", full="a", first_token=None)
    record(tmp_path, "joint/decoder", "e", full="d", first_token="full", pruned="b")
    for name in ("pruned_tuned", "scratch"):
        record(tmp_path, f"baselines/{name}", name, full="a", first_token=None, pruned="b")
    record(tmp_path, "baselines/full_tuned", "f", full="a", first_token=None)
    return tmp_path


OF_THE_CUT = {"two_stage", "joint", "pruned_tuned", "scratch", "decoder_alone"}
OF_THE_DECODER = {"two_stage", "decoder_alone"}
UNTRAINED = {"pruned_untrained", "pruned_two_stage_untrained"}


@pytest.mark.parametrize(
    ("folder", "changes", "left_out"),
    [
        ("full", {}, set()),
        ("pruned", {"fingerprint": "B", "full": "a", "first_token": None}, OF_THE_CUT),
        ("decoder", {"full": "a", "first_token": "full", "pruned": "B"}, OF_THE_DECODER),
        ("decoder", {"full": "a", "first_token": "decoder", "pruned": "b"}, {"two_stage"}),
        ("joint/decoder", {"full": "d", "first_token": "decoder", "pruned": "b"}, {"joint"}),
        ("joint/full", {"fingerprint": "D", "full": "a", "first_token": None}, {"joint"}),
        ("joint/full", {"fingerprint": "d", "full": "A", "first_token": None}, {"joint"}),
        ("baselines/full_tuned", {"full": "A", "first_token": None}, {"full_tuned"}),
        ("baselines/scratch", {"full": "A", "first_token": None, "pruned": "b"}, {"scratch"}),
        ("pruned", {"fingerprint": "b", "full": "A", "first_token": None}, UNTRAINED),
    ],
)
def test_what_is_of_other_models_is_left_out(workdir, caplog, folder, changes, left_out):
    changes = {"fingerprint": "x"} | changes
    if folder != "full":
        record(workdir, folder, **changes)
    with caplog.at_level(logging.WARNING, logger="absl"):
        fitting = choose_fitting(SYSTEMS, workdir, "full")
    assert {s.name for s in SYSTEMS} - {s.name for s in fitting} == left_out
    assert len(caplog.messages) == len(left_out)


def test_a_new_full_model_leaves_nothing_to_compare(workdir):
    record(workdir, "full", "A")
    with pytest.raises(InputError, match=r"no system .*full_tuned: made from another full"):
        choose_fitting(SYSTEMS, workdir, "full")
    assert choose_fitting([FULL], workdir, "full") == [FULL]


def test_what_records_nothing_is_taken_as_it_is(tmp_path, caplog):
    for folder in ("full", "pruned", "decoder"):
        record(tmp_path, folder, folder)
    present, _ = find_systems(tmp_path)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert choose_fitting(present, tmp_path, "full") == present
    for folder in ("pruned", "decoder"):
        assert f"{tmp_path / folder}: says not what it came from" in caplog.text
    assert len(caplog.messages) == 2
