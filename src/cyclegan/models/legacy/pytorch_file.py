"""State dicts in PyTorch's files (`torch.save(net.state_dict(), "name.pth")`) and in safetensors, without PyTorch."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cyclegan.models.legacy.pytorch_pickle import (
    LARGEST_PICKLE,
    SAVE_STATE_DICT,
    Storage,
    TensorView,
    UnreadableError,
    interpret,
)
from cyclegan.system.errors import one_line

StateDict = dict[str, np.ndarray]

# What a file of torch 0.1.10 to 1.5 starts with, and its version.
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
# Names of the types in safetensors.
_SAFETENSORS = {"F32": "f4", "F64": "f8", "F16": "f2", "BF16": "bf16", "I64": "i8"}


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a state dict, in the file's order.

    Both containers of `torch.save` are read, the zip file (since torch 1.6) and the older one, and with the ending
    `.safetensors` that format. No size in the file is believed: the memory taken is at most a few times the file's.

    Raises:
        UnreadableError: it is no PyTorch file, is corrupt, or holds something else than a state dict.
    """
    if not path.is_file():
        raise UnreadableError("no such file; name a file that torch.save(net.state_dict(), FILE) wrote")
    with path.open("rb") as file:
        try:
            if path.suffix.lower() == ".safetensors":
                return _read_safetensors(file)
            is_zip = file.read(4) == b"PK\3\4"
            file.seek(0)
            return _read_zip(file) if is_zip else _read_legacy(file)
        except (UnreadableError, MemoryError):
            raise
        # The file may be a stranger's: what its parts make Python raise has no limits.
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise UnreadableError(f"is corrupt ({reason}); download or copy it again") from None


def _read_zip(file: BinaryIO) -> StateDict:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnreadableError(f"is a zip file that torch.save did not write; {SAVE_STATE_DICT}")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names):
            raise UnreadableError(f"is a TorchScript program; {SAVE_STATE_DICT}")
        # torch.save compresses nothing, so a file that says to hold more than its size is a bomb or corrupt.
        claimed, size = sum(entry.file_size for entry in archive.infolist()), os.fstat(file.fileno()).st_size
        if claimed > size:
            raise UnreadableError(f"has {size} bytes but claims {claimed}; {SAVE_STATE_DICT}")
        if archive.getinfo(pickles[0]).file_size > LARGEST_PICKLE:
            raise UnreadableError(f"has a longer description than any network; {SAVE_STATE_DICT}")
        views = _tensor_views(interpret(io.BytesIO(archive.read(pickles[0]))))
        # Files of torch before 2.1 do not record the byte order.
        is_big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"

        def read(storage: Storage) -> np.ndarray:
            return _decode(archive.read(f"{root}data/{storage.key}"), storage, ">" if is_big else "<")

        # Each storage once: many tensors may lie in one.
        storages = {storage: read(storage) for storage in {view.storage for view in views.values()}}
        return _arrays(views, storages)


def _read_legacy(file: BinaryIO) -> StateDict:
    """Five pickles in a row (magic number, version, machine, state dict, keys of the storages), then the storages."""
    size = os.fstat(file.fileno()).st_size
    head = io.BytesIO(file.read(LARGEST_PICKLE))
    if not _starts_with_magic(head):
        raise UnreadableError("is not a PyTorch file; name a file that torch.save(net.state_dict(), FILE) wrote")
    # Its value is not printed: as text, a list of lists of one list can be without end.
    if interpret(head) != _LEGACY_VERSION:
        raise UnreadableError("is of an unknown version of the format; save it again with PyTorch 1.6 or later")
    interpret(head)
    views = _tensor_views(interpret(head))
    keys = interpret(head)
    file.seek(head.tell())
    described = {view.storage.key: view.storage for view in views.values()}
    storages = {}
    for key in keys:
        # Nothing else may be looked up: the hash of a deeply nested tuple overflows the interpreter's own stack.
        storage = described[key if isinstance(key, str) else ""]
        count = int.from_bytes(file.read(8), "little", signed=True)
        length = storage.count * _itemsize(storage)
        if count != storage.count or not 0 <= length <= size - file.tell():
            raise ValueError(f"storage {key[:80]!r} is incomplete")
        # Numbers are in little endian here, whatever the machine.
        storages[storage] = _decode(file.read(length), storage, "<")
    return _arrays(views, storages)


def _read_safetensors(file: BinaryIO) -> StateDict:
    """The length of a JSON text, the text with each tensor's type, shape and place, then the numbers."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_PICKLE, size - 8):
        raise UnreadableError("is not a safetensors file; name one that safetensors.torch.save_file wrote")
    entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    if not entries:
        raise UnreadableError("holds no tensors; save them with safetensors.torch.save_file(net.state_dict(), FILE)")
    places = [entry["data_offsets"] for entry in entries.values()]
    numbers = memoryview(file.read())
    # Overlapping tensors would take a multiple of the file's size.
    if sum(end - start for start, end in places) > len(numbers) or any(start > end for start, end in places):
        raise ValueError("tensors overlap")
    state = {}
    for (name, entry), (start, end) in zip(entries.items(), places, strict=True):
        storage = Storage(_SAFETENSORS[entry["dtype"]], name, math.prod(entry["shape"]))
        if storage.count < 1:
            raise ValueError(f"{name[:80]!r} is empty")
        state[name] = _decode(numbers[start:end], storage, "<").reshape(entry["shape"])
    return state


def _starts_with_magic(head: BinaryIO) -> bool:
    try:
        return bool(interpret(head) == _MAGIC)
    # Any file can be named here.
    except Exception:
        return False


def _tensor_views(value: Any) -> dict[str, TensorView]:
    """The value of a file's pickle, if it is a state dict."""
    if not isinstance(value, dict) or not value:
        raise UnreadableError(f"holds no state dict; {SAVE_STATE_DICT}")
    if all(isinstance(key, str) and isinstance(item, TensorView) for key, item in value.items()):
        return value
    keys = ", ".join(repr(str(key)[:40]) for key in list(value)[:6])
    for key, item in value.items():
        if isinstance(item, dict) and any(isinstance(inner, TensorView) for inner in item.values()):
            remedy = f"save the state dict alone: torch.save(loaded[{str(key)[:40]!r}], FILE)"
            raise UnreadableError(f"holds a dict with the keys {keys}; {remedy}")
    raise UnreadableError(f"holds a dict with the keys {keys}, which are not all tensors; {SAVE_STATE_DICT}")


def _arrays(views: dict[str, TensorView], storages: dict[Storage, np.ndarray]) -> StateDict:
    return {name: _array(name, view, storages[view.storage]) for name, view in views.items()}


def _array(name: str, view: TensorView, flat: np.ndarray) -> np.ndarray:
    """A tensor as a window on its storage, without a copy."""
    size, stride = view.size, view.stride
    if len(size) != len(stride) or len(size) > 4 or not all(isinstance(n, int) for n in (*size, *stride)):
        raise ValueError(f"{name[:80]!r} has no valid shape")
    last = view.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    is_inside = view.offset >= 0 and min(size, default=1) > 0 and min(stride, default=0) >= 0 and last < len(flat)
    # A stride of 0 would repeat one number without end.
    if not is_inside or math.prod(size) > len(flat):
        raise ValueError(f"{name[:80]!r} exceeds its storage")
    strides = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[view.offset :], size, strides, writeable=False)


def _decode(raw: bytes | memoryview, storage: Storage, order: str) -> np.ndarray:
    if len(raw) != storage.count * _itemsize(storage):
        raise ValueError(f"storage {storage.key[:80]!r} does not have its size")
    if storage.dtype != "bf16":
        return np.frombuffer(raw, order + storage.dtype)
    # The upper half of a float32.
    return (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)


def _itemsize(storage: Storage) -> int:
    return 2 if storage.dtype == "bf16" else np.dtype(storage.dtype).itemsize
