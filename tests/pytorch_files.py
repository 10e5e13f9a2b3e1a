"""Writing of PyTorch's files without PyTorch, including files that PyTorch would never write."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan.models.legacy.pytorch_pickle import STORAGES, Storage, TensorView

PROTOCOL, STOP = b"\x80\x02", b"."
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
CLASSES = {dtype: name.rpartition(".")[2] for name, dtype in STORAGES.items()}


def pickled(value: Any) -> bytes:
    return PROTOCOL + encoded(value) + STOP


def encoded(value: Any) -> bytes:
    """The pickle instructions for a value, as `torch.save` writes them. Bytes are returned unchanged."""
    match value:
        case bytes():
            return value
        case bool() | None:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(digits)]) + digits
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(encoded, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encoded, value)) + b"e"
        case dict():
            return b"}(" + b"".join(encoded(part) for item in value.items() for part in item) + b"u"
        case Storage(dtype, key, count):
            return encoded(("storage", named("torch", CLASSES[dtype]), key, "cpu", count)) + b"Q"
        case TensorView(storage, offset, size, stride):
            arguments = (storage, offset, size, stride, False, named("collections", "OrderedDict") + b")R")
            return named("torch._utils", "_rebuild_tensor_v2") + encoded(arguments) + b"R"
    raise TypeError(value)


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def write_zip(path: Path, content: bytes, storages: Mapping[str, bytes], **others: bytes) -> Path:
    """A file of torch 1.6 or later around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        members = {"data.pkl": content, **others, **{f"data/{key}": raw for key, raw in storages.items()}}
        for name, raw in members.items():
            archive.writestr(f"archive/{name}", raw)
    return path


def write_legacy(path: Path, content: bytes, storages: Mapping[str, bytes], itemsize: int = 4) -> Path:
    """A file of torch before 1.6 around a pickle."""
    head = [pickled(MAGIC), pickled(VERSION), pickled({"little_endian": True}), content, pickled(list(storages))]
    tail = [struct.pack("<q", len(raw) // itemsize) + raw for raw in storages.values()]
    path.write_bytes(b"".join(head + tail))
    return path


def write_state_dict(path: Path, state: Mapping[str, np.ndarray]) -> Path:
    """A state dict of float32 or int64 arrays, each in a storage of its own."""
    views, storages = {}, {}
    for number, (name, array) in enumerate(state.items()):
        dtype = array.dtype.str[1:]
        strides = tuple(step // array.itemsize for step in array.copy().strides)
        views[name] = TensorView(Storage(dtype, str(number), array.size), 0, array.shape, strides)
        storages[str(number)] = array.tobytes()
    return write_zip(path, pickled(views), storages)
