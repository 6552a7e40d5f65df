"""The restricted unpickler: real files read the same, and nothing else is called."""

import builtins
import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest

from overfill_jax.errors import InputError
from overfill_jax.weights.official_indices import load_indices

HIDDEN = [3, 0, 7]
INTERMEDIATE = [[1, 5], [4, 2]]


class Name:
    """Pickles as the name of a function or class that need not be importable."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a name."""

    def __init__(self, module, name, *args):
        self.function, self.args = Name(module, name), args


class Pickler(pickle._Pickler):
    """Writes names without importing them, and storages by reference, as torch does."""

    def save(self, obj, *args, **kwargs):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Reference):
            self.save(tuple(obj), save_persistent_id=False)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, *args, **kwargs)


class Reference(list):
    """Where a storage stands in torch's format."""


def dumps(value) -> bytes:
    file = io.BytesIO()
    Pickler(file, 3).dump(value)  # the first with bytes of its own
    return file.getvalue()


def storage(values, kind="LongStorage", magic=0x1950A86A20F9469CFC6C, length=None) -> bytes:
    """What torch.save wrote before 1.6, and still does inside a pickle."""
    length = len(values) if length is None else length
    reference = Reference(["storage", Name("torch", kind), "1", "cpu", length, None])
    parts = [magic, 1001, {"little_endian": True}, reference, ["1"]]
    raw = struct.pack("<q", len(values)) + np.asarray(values, np.int64).tobytes()
    return b"".join(map(dumps, parts)) + raw


def tensor(values, size=None, stride=(1,), offset=0, **changes):
    size = (len(values),) if size is None else size
    data = Call("torch.storage", "_load_from_bytes", storage(values, **changes))
    hooks = Call("collections", "OrderedDict")
    return Call("torch._utils", "_rebuild_tensor_v2", data, offset, size, stride, False, hooks)


def contents(**changes) -> dict:
    plain = {
        "depth": [0, 1],
        "width_hidden": tensor(HIDDEN),
        "width_intermediate": [tensor(row) for row in INTERMEDIATE],
        "width_attn": None,
    }
    return plain | changes


def read(tmp_path, value):
    path = tmp_path / "indices.pkl"
    path.write_bytes(value if isinstance(value, bytes) else dumps(value))
    return load_indices(path)


def test_order_of_the_file_is_kept(tmp_path):
    hidden, intermediate = read(tmp_path, contents())
    assert hidden.tolist() == HIDDEN and intermediate.tolist() == INTERMEDIATE
    assert hidden.dtype == intermediate.dtype == np.int32


def test_a_tensor_may_be_a_window_of_its_storage(tmp_path):
    window = tensor([9, 3, 9, 0, 9, 7], size=(3,), stride=(2,), offset=1)
    assert read(tmp_path, contents(width_hidden=window))[0].tolist() == HIDDEN


def test_lists_of_numbers_do_as_well(tmp_path):
    plain = contents(width_hidden=HIDDEN, width_intermediate=INTERMEDIATE)
    assert read(tmp_path, plain)[1].tolist() == INTERMEDIATE


def test_npz(tmp_path):
    np.savez(tmp_path / "kept.npz", hidden=HIDDEN, intermediate=INTERMEDIATE, note="more")
    hidden, intermediate = load_indices(tmp_path / "kept.npz")
    assert hidden.tolist() == HIDDEN and intermediate.tolist() == INTERMEDIATE


class Attack:
    """Runs a command when it is unpickled by the ordinary pickle."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (os.system, ("touch {}",)),
        (builtins.open, ("{}", "w")),
        (builtins.eval, ("open('{}', 'w')",)),
        (os.mkdir, ("{}",)),
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_other_function_is_called(tmp_path, function, args, protocol):
    proof = tmp_path / "proof"
    attack = Attack(function, *(arg.format(proof) for arg in args))
    data = pickle.dumps({"depth": attack}, protocol)
    with pytest.raises(InputError, match=r"indices.pkl: the pickle names \w+\.\w+, expected only"):
        read(tmp_path, data)
    assert not proof.exists()
    pickle.loads(data)  # the attack is real
    assert proof.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes.__globals__"),
        ("collections", "OrderedDict.__init_subclass__"),
        ("collections", "namedtuple"),
        ("numpy", "load"),
        ("functools", "partial"),
    ],
)
def test_neighbours_of_the_known_names_are_refused(tmp_path, module, name):
    with pytest.raises(InputError, match=f"the pickle names {module}.{name}"):
        read(tmp_path, contents(width_hidden=Call(module, name, b"")))


def test_names_inside_a_storage_are_refused(tmp_path):
    inner = dumps(Call("os", "system", f"touch {tmp_path / 'proof'}"))
    attack = Call("torch.storage", "_load_from_bytes", inner)
    with pytest.raises(InputError, match=r"names os\.system"):
        read(tmp_path, contents(width_hidden=attack))
    assert not (tmp_path / "proof").exists()


def test_nothing_of_ours_can_be_changed(tmp_path):
    # BUILD with (None, {"__defaults__": ...}) sets an attribute of the function before it.
    setting = b"ctorch.storage\n_load_from_bytes\nN}X\x0c\x00\x00\x00__defaults__(K\x01ts\x86b."
    with pytest.raises(InputError, match="the pickle sets attributes"):
        read(tmp_path, b"\x80\x03" + setting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width_hidden": tensor(HIDDEN, size=(4,))}, "beyond its 3 entries"),
        ({"width_hidden": tensor(HIDDEN, offset=1)}, "beyond its 3 entries"),
        ({"width_hidden": tensor(HIDDEN, offset=-1)}, "beyond its 3 entries"),
        ({"width_hidden": tensor(HIDDEN, size=(10**12,), stride=(0,))}, "beyond its 3 entries"),
        ({"width_hidden": tensor(HIDDEN, stride=(1, 1))}, "not an index file"),
        ({"width_hidden": tensor(HIDDEN, magic=7)}, "stored in an unknown way"),
        ({"width_hidden": tensor(HIDDEN, length=9)}, "does not have the 9 entries"),
        ({"width_hidden": tensor(HIDDEN, kind="FloatStorage")}, r"names torch\.FloatStorage"),
        ({"width_hidden": [0.5, 1.5]}, "expected integers with 1 axes"),
        ({"width_hidden": [1, 2, 1]}, "hidden repeats a channel"),
        ({"width_hidden": [-1, 2]}, "hidden repeats a channel or has a negative one"),
        ({"width_intermediate": [[1, 2], [3]]}, "not an index file"),
        ({"width_intermediate": [[1, 1], [2, 3]]}, "intermediate repeats a channel"),
        ({"depth": [0, 2]}, "layers or heads were pruned as well"),
        ({"width_attn": [0]}, "layers or heads were pruned as well"),
    ],
)
def test_broken_contents_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=f"^{tmp_path}/indices.pkl: .*{message}"):
        read(tmp_path, contents(**changes))


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x04N.", pickle.dumps([1, 2])])
def test_other_files_are_named(tmp_path, data):
    with pytest.raises(InputError, match="not an index file"):
        read(tmp_path, data)


def test_missing_and_object_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_indices(tmp_path / "nowhere.pkl")
    np.savez(tmp_path / "bad.npz", hidden=np.array([collections.OrderedDict()]), intermediate=[[1]])
    with pytest.raises(InputError, match="not an index file"):
        load_indices(tmp_path / "bad.npz")


def test_the_format_is_that_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    stacked = torch.tensor([[3, 0, 7], [1, 2, 4]])
    value = contents(
        width_hidden=stacked[0],
        width_intermediate=[row.int() for row in torch.tensor(INTERMEDIATE)],
    )
    hidden, intermediate = read(tmp_path, pickle.dumps(value))
    assert hidden.tolist() == HIDDEN and intermediate.tolist() == INTERMEDIATE


@pytest.mark.parametrize(
    ("name", "hidden_width", "shape"),
    [
        ("Llama-3.2-3B-Instruct-pruned-h0.45-i0.45-a0.0-d0.0", 1689, (28, 4505)),
        ("Llama-3.1-8B-Instruct-pruned-h0.43-i0.43-a0.0-d0.0", 2334, (32, 8171)),
    ],
)
def test_the_released_indices(shared_data, name, hidden_width, shape):
    hidden, intermediate = load_indices(shared_data / "official_indices" / f"{name}.npz")
    assert hidden.shape == (hidden_width,) and intermediate.shape == shape
