"""Checkpoints: what is kept, what comes back, onto which mesh, and what is refused."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from overfill_jax import distributed
from overfill_jax.errors import InputError
from overfill_jax.weights.checkpoints import Checkpoints, load_tree, save_tree, stored_arrays
from tests.conftest import simulated


def state_of(step: int) -> dict:
    params = {"decoder": {"up": jnp.full((3, 4), step, jnp.float32), "down": jnp.ones(4)}}
    optimizer = optax.adamw(1e-3).init(params)
    return {"step": jnp.int32(step), "params": params, "optimizer": optimizer}


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(0))


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture
def run(tmp_path):
    """Six steps, the second the best."""
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5, 6: None}
    with Checkpoints(tmp_path / "run", keep_last=2) as checkpoints:
        assert checkpoints.latest is None
        for step, loss in losses.items():
            metrics = None if loss is None else {"validation_loss": loss}
            checkpoints.save(step, state_of(step), metrics)
    return tmp_path / "run"


def test_latest_and_best_are_kept(run):
    assert steps(run) == [2, 5, 6]
    with Checkpoints(run, keep_last=2) as checkpoints:
        assert checkpoints.latest == 6
        assert [step for step in steps(run) if checkpoints.has_loss(step)] == [2, 5]
        assert checkpoints.restore_best(ABSTRACT)["step"] == 2


def test_of_equal_losses_the_newest_is_best(tmp_path):
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_of(step), {"validation_loss": min(step, 2) * 1.0})
        checkpoints.save(4, state_of(4), {"validation_loss": 1.0})
        checkpoints.save(5, state_of(5), None)
        assert checkpoints.restore_best(ABSTRACT)["step"] == 4
    assert steps(tmp_path) == [4, 5]


def test_a_step_may_be_saved_again_with_its_loss(run):
    with Checkpoints(run, keep_last=2) as checkpoints:
        checkpoints.replace(6, state_of(6), {"validation_loss": 0.5})
        assert checkpoints.restore_best(ABSTRACT)["step"] == 6
    assert sorted(path.name for path in run.iterdir()) == ["5", "6"]


@pytest.mark.parametrize("written", [False, True])
def test_a_step_that_was_being_replaced_is_not_lost(run, written):
    """Killed before the new one was on disk, and behind that."""
    if written:
        shutil.copytree(run / "6", run / "6.former")
    else:
        (run / "6").rename(run / "6.former")
    with Checkpoints(run, keep_last=2) as checkpoints:
        assert checkpoints.restore_newest(ABSTRACT)["step"] == 6
    assert sorted(path.name for path in run.iterdir()) == ["2", "5", "6"]


def test_everything_comes_back(run):
    restored = load_tree(run / "6", ABSTRACT)
    expected = state_of(6)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_save_is_not_touched_by_the_next_step(tmp_path):
    # The train step donates its state, whose memory the next one then writes to.
    forward = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jnp.zeros((512, 512, 8))
    with Checkpoints(tmp_path, keep_last=9) as checkpoints:
        for step in range(3):
            checkpoints.save(step, {"x": state}, None)
            for _ in range(5):
                state = forward(state)
    for step in range(3):
        wanted = {"x": jax.ShapeDtypeStruct(state.shape, "float32")}
        restored = load_tree(tmp_path / str(step), wanted)
        assert np.unique(restored["x"]).tolist() == [5.0 * step]


def test_leftovers_of_a_killed_save_are_removed(run):
    leftover = run / "7.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "half").write_text("")
    with Checkpoints(run, keep_last=2) as checkpoints:
        assert checkpoints.latest == 6
        checkpoints.save(7, state_of(7), None)
        assert checkpoints.restore_newest(ABSTRACT)["step"] == 7
    assert not leftover.exists()


def test_part_of_a_state(run):
    part = {"params": ABSTRACT["params"]}
    restored = load_tree(run / "5", part, partial=True)
    assert restored.keys() == {"params"}
    assert (restored["params"]["decoder"]["up"] == 5).all()
    with pytest.raises(InputError, match="5: unexpected array optimizer/0/count"):
        load_tree(run / "5", part)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"params": {"full": jax.ShapeDtypeStruct((2,), "float32")}},
            r"6: array params/full is missing, expected \(2,\)",
        ),
        (
            {"step": jax.ShapeDtypeStruct((2,), "int32")},
            r"6: array step has shape \(\), expected \(2,\)",
        ),
    ],
)
def test_an_array_that_does_not_fit_is_named(run, wanted, message, partial):
    with pytest.raises(InputError, match=message):
        load_tree(run / "6", wanted, partial)


def test_no_best_and_no_step(tmp_path):
    with Checkpoints(tmp_path / "run", keep_last=2) as checkpoints:
        checkpoints.save(1, state_of(1), None)
        with pytest.raises(InputError, match="no checkpoint has a validation loss"):
            checkpoints.restore_best(ABSTRACT)
    with pytest.raises(InputError, match="9: no such folder"):
        load_tree(tmp_path / "run" / "9", ABSTRACT)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="run: cannot be written"):
        Checkpoints(tmp_path / "file" / "run", keep_last=1)


def test_a_tree_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/tree: cannot be written"):
        save_tree(tmp_path / "file" / "tree", {"x": jnp.ones(3)})


def test_damage_is_named(tmp_path):
    save_tree(tmp_path / "tree", {"x": jnp.arange(100_000)})
    for file in (tmp_path / "tree").rglob("*"):
        if file.stat().st_size > 100_000:
            file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="tree: damaged checkpoint") as caught:
        load_tree(tmp_path / "tree", {"x": jax.ShapeDtypeStruct((100_000,), "int32")})
    assert "\n" not in str(caught.value)


def damage(step):
    for file in sorted(step.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size):
        largest = file
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def empty(step):
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [damage, empty])
def test_a_damaged_checkpoint_is_passed_over_and_kept(run, spoil, caplog):
    spoil(run / "6")
    with Checkpoints(run, keep_last=2) as checkpoints:
        assert checkpoints.restore_newest(ABSTRACT)["step"] == 5
        assert "6.damaged. Going on from step 5" in caplog.text
        checkpoints.save(6, state_of(6), None)  # what is damaged is not in the way
        assert checkpoints.restore_newest(ABSTRACT)["step"] == 6
    assert any((run / "6.damaged").rglob("*"))


def test_where_all_is_damaged_nothing_begins_anew(run):
    for step in steps(run):
        damage(run / str(step))
    for _ in range(2):  # nor when the command is given again
        expected = pytest.raises(InputError, match=r"2: damaged .*, and there is none before it")
        with Checkpoints(run, keep_last=2) as checkpoints, expected:
            checkpoints.restore_newest(ABSTRACT)
    assert steps(run) == [2]


def test_where_a_device_has_no_room_no_checkpoint_is_to_blame(run, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")

    with Checkpoints(run, keep_last=2) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(jax, "device_put", full)  # with which Orbax places what it has read
        for restore in (checkpoints.restore_newest, checkpoints.restore_best):
            with pytest.raises(InputError, match=r"[26]: cannot be loaded \(RESOURCE_EXHAUSTED"):
                restore(ABSTRACT)
    assert steps(run) == [2, 5, 6]


def test_a_step_may_be_damaged_more_than_once(run):
    with Checkpoints(run, keep_last=2) as checkpoints:
        for name in ("6.damaged", "6.damaged-2", "6.damaged-3"):
            damage(run / "6")
            assert checkpoints.restore_newest(ABSTRACT)["step"] == 5
            assert any((run / name).rglob("*"))
            checkpoints.save(6, state_of(6), None)
            checkpoints.wait()


def test_damage_that_another_process_finds_counts_as_well(run, monkeypatch, caplog):
    said = iter([["", "6: damaged elsewhere"], ["", ""]])
    monkeypatch.setattr(distributed, "gather", lambda *_: next(said))
    with Checkpoints(run, keep_last=2) as checkpoints:
        assert checkpoints.restore_newest(ABSTRACT)["step"] == 5
    assert "6: damaged elsewhere; it is now 6.damaged. Going on from step 5" in caplog.text


def test_for_a_damaged_best_the_next_best_is_taken_and_the_newest_at_last(run, caplog):
    with Checkpoints(run, keep_last=2) as checkpoints:
        for damaged, taken in ((2, 5), (5, 6)):
            damage(run / str(damaged))
            assert checkpoints.restore_best(ABSTRACT)["step"] == taken
            assert f"Taking step {taken} in its place" in caplog.text
        damage(run / "6")
        expected = pytest.raises(InputError, match=r"2: damaged .*, and no other can be read")
        with expected:
            checkpoints.restore_best(ABSTRACT)
    assert steps(run) == [2, 5, 6]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_failed_first_is_what_is_raised(run, monkeypatch, processes):
    """And of several processes, none waits for a save that the others may never finish."""
    closed = []

    def close():
        closed.append(True)
        raise OSError("disk full")

    checkpoints = Checkpoints(run, keep_last=2)
    close_orbax = checkpoints._checkpointer.close
    monkeypatch.setattr(checkpoints._checkpointer, "close", close)
    monkeypatch.setattr(distributed, "process_count", lambda: processes)
    with pytest.raises(KeyError), checkpoints:
        raise KeyError("lost")
    assert len(closed) == (processes == 1)
    with pytest.raises(InputError, match="disk full"), checkpoints:
        pass
    close_orbax()


def test_newest_of_nothing(tmp_path):
    with Checkpoints(tmp_path / "run", keep_last=2) as checkpoints:
        assert checkpoints.restore_newest(ABSTRACT) is None


FULL_DISK = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp
from overfill_jax.errors import InputError
from overfill_jax.weights.checkpoints import Checkpoints

folder = Path(sys.argv[1])
try:
    with Checkpoints(folder, keep_last=2) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1000)}, None)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        checkpoints.save(2, {"x": jnp.ones(1_000_000)}, None)
except InputError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_what_was_saved_stays(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", FULL_DISK, folder]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"{folder}: a checkpoint cannot be written" in done.stdout, done.stderr
    with Checkpoints(folder, keep_last=2) as checkpoints:
        found = checkpoints.restore_newest({"x": jax.ShapeDtypeStruct((1000,), "float32")})
    np.testing.assert_array_equal(found["x"], np.ones(1000))


def test_stored_arrays_lists_names_shapes_and_dtypes(tmp_path):
    save_tree(tmp_path / "tree", {"a": {"b": jnp.ones((2, 3), jnp.bfloat16)}})
    assert stored_arrays(tmp_path / "tree") == {"a/b": jax.ShapeDtypeStruct((2, 3), "bfloat16")}
    with pytest.raises(InputError, match="not a checkpoint"):
        stored_arrays(tmp_path)


RESHARD = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P, SingleDeviceSharding
from overfill_jax.weights.checkpoints import load_tree, save_tree

folder, devices = Path(sys.argv[1]), np.array(jax.devices())
assert len(devices) == 4
square = jax.sharding.Mesh(devices.reshape(2, 2), ("data", "model"))
line = jax.sharding.Mesh(devices, ("model",))
array = jnp.arange(64.0).reshape(8, 8)
save_tree(folder, {"x": jax.device_put(array, NamedSharding(square, P("data", "model")))})
for sharding in (NamedSharding(line, P(None, "model")), NamedSharding(square, P()),
                 SingleDeviceSharding(devices[3])):
    found = load_tree(folder, {"x": jax.ShapeDtypeStruct((8, 8), "float32", sharding=sharding)})
    assert found["x"].sharding == sharding and (found["x"] == array).all()
alone = load_tree(folder, {"x": jax.ShapeDtypeStruct((8, 8), "bfloat16")})["x"]
assert alone.sharding == SingleDeviceSharding(devices[0]) and alone.dtype == jnp.bfloat16
"""


def test_any_mesh_to_any_mesh(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": simulated(4),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", RESHARD, tmp_path / "tree"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # What four devices wrote, this process reads onto its own.
    found = load_tree(tmp_path / "tree", {"x": jax.ShapeDtypeStruct((8, 8), "float32")})
    np.testing.assert_array_equal(found["x"], np.arange(64).reshape(8, 8))
