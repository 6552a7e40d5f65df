import pytest

from overfill_jax.errors import InputError
from overfill_jax.evaluation.systems import FULL, SYSTEMS, find_systems, missing_folders


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
