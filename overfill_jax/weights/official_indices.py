"""The kept channels that the authors released, read without unpickling freely.

Their files (`pruner/pruned_idx/*.pkl`, written by `pruner/main.py` of friendshipkim/overfill) are
pickles of torch tensors. A pickle may name any function and have it called, so this reader maps the
few names that tensors need to functions of its own, and refuses every other.
"""

import collections
import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from overfill_jax.errors import InputError

# torch.save's format before 1.6, in which tensors lie inside a plain pickle.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {("torch", "LongStorage"): np.int64, ("torch", "IntStorage"): np.int32}


def load_indices(path: Path) -> tuple[Int[np.ndarray, "D"], Int[np.ndarray, "L F"]]:
    """Reads a released `.pkl`, or an `.npz` with `hidden` and `intermediate`.

    Returns:
      Kept hidden channels, and kept MLP channels of every layer, in the order of the file: in the
      released ones that of falling importance.

    Raises:
      InputError: the file is missing, is no index file, or names anything but tensors, lists,
        tuples, dicts, strings and numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected .pkl or .npz indices")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _checked(arrays["hidden"], arrays["intermediate"])
        found = _Unpickler(io.BytesIO(path.read_bytes()), _TENSOR_NAMES).load()
        layers = len(found["width_intermediate"])
        if found["depth"] != list(range(layers)) or found["width_attn"] is not None:
            raise _Refused("layers or heads were pruned as well, expected hidden and MLP channels")
        return _checked(found["width_hidden"], found["width_intermediate"])
    except _Refused as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a crafted file can raise anything
        raise InputError(f"{path}: not an index file ({type(error).__name__}: {error})") from error


def _checked(hidden: Any, intermediate: Any) -> tuple[np.ndarray, np.ndarray]:
    hidden, intermediate = np.asarray(hidden), np.asarray(intermediate)
    for name, array, axes in (("hidden", hidden, 1), ("intermediate", intermediate, 2)):
        if array.ndim != axes or array.dtype.kind not in "iu":
            raise _Refused(
                f"{name} has shape {array.shape} and dtype {array.dtype}, expected integers "
                f"with {axes} axes"
            )
        for row in np.atleast_2d(array):
            if row.min(initial=0) < 0 or len(np.unique(row)) != len(row):
                raise _Refused(
                    f"{name} repeats a channel or has a negative one, expected each once"
                )
    return hidden.astype(np.int32), intermediate.astype(np.int32)


class _Refused(ValueError):
    """What a file holds and may not; becomes an `InputError` with the file's name."""


class _Unpickler(pickle.Unpickler):
    """An unpickler to which the names in `known` are what they are mapped to, and no other is."""

    def __init__(self, file: io.BytesIO, known: dict[tuple[str, str], Any]):
        super().__init__(file)
        self._file, self._known = file, known

    def load(self) -> Any:
        """Reads one pickle, after a look at its instructions."""
        start = self._file.tell()
        for instruction, _, _ in pickletools.genops(self._file):
            # It sets attributes of whatever came before it, such as a function of ours.
            if instruction.name == "BUILD":
                raise _Refused("the pickle sets attributes, expected only values")
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        """Called for every name in the pickle."""
        if (module, name) not in self._known:
            raise _Refused(
                f"the pickle names {module}.{name}, expected only tensors, lists, tuples, dicts, "
                "strings and numbers"
            )
        return self._known[module, name]

    def persistent_load(self, reference: tuple) -> tuple:
        """Called where a storage stands: its kind, dtype, key, device, length and view."""
        return reference


def _load_storage(data: bytes) -> np.ndarray:
    """`torch.storage._load_from_bytes`: a few pickles, then length and bytes of the storage."""
    file = io.BytesIO(data)
    pickles = [_Unpickler(file, _STORAGES).load() for _ in range(5)]
    magic, protocol, _, (kind, dtype, key, _, length, view), keys = pickles
    if (magic, protocol, kind, keys, view) != (_MAGIC, _PROTOCOL, "storage", [key], None):
        raise _Refused("a tensor is stored in an unknown way, expected torch's before 1.6")
    if int.from_bytes(file.read(8), "little") != length:
        raise _Refused(f"a tensor's storage does not have the {length} entries it should")
    return np.frombuffer(file.read(length * np.dtype(dtype).itemsize), dtype, length)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any
) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`: a strided window of a storage, copied."""
    numbers = (offset, *size, *stride)
    inside = len(size) == len(stride) and all(type(n) is int and n >= 0 for n in numbers)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if not inside or end > storage.size or math.prod(size) > storage.size:
        raise _Refused(f"a tensor of shape {size} reaches beyond its {storage.size} entries")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


_TENSOR_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}
