"""What makes a run another one than that of the workdir."""

import json

import pytest

from overfill_jax.errors import InputError
from overfill_jax.training.settings import check_same_run

SETTINGS = {"seed": 0, "path of full": "/runs/a/full", "fingerprint of full": "abc"}


@pytest.fixture
def record(tmp_path):
    check_same_run(tmp_path / "run.json", SETTINGS, latest=None)
    return tmp_path / "run.json"


def test_the_full_model_is_recorded_by_path_and_fingerprint(record):
    assert json.loads(record.read_text()) == SETTINGS


def test_a_model_may_be_moved(record):
    check_same_run(record, SETTINGS | {"path of full": "/runs/b/full"}, latest=3)


def test_another_model_is_refused_by_its_fingerprint_and_named_by_its_path(record):
    other = SETTINGS | {"path of full": "/runs/b/full", "fingerprint of full": "def"}
    expected = r"fingerprint of full was 'abc' \(/runs/a/full\), is 'def' \(/runs/b/full\)"
    with pytest.raises(InputError, match=expected):
        check_same_run(record, other, latest=3)
    with pytest.raises(InputError, match="seed was 0, is 1"):
        check_same_run(record, SETTINGS | {"seed": 1}, latest=3)


def test_a_record_that_is_no_object_is_named(record):
    record.write_text('["seed"]')
    with pytest.raises(InputError, match=r"run\.json: found a JSON list, expected an object"):
        check_same_run(record, SETTINGS, latest=3)
