"""What a `.pth` file may hold, and what is refused before any of it can act."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyclegan.models.legacy.pytorch_file import read_state_dict
from cyclegan.models.legacy.pytorch_pickle import LARGEST_PICKLE, Storage, TensorView, UnreadableError
from pytorch_files import VERSION, encoded, named, pickled, write_legacy, write_zip

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pytorch"
MARK = "HOSTILE_PICKLE_WAS_RUN"
SAVE = "torch.save(net.state_dict(), FILE)"

VALUES = np.arange(24, dtype="f4")
WHOLE = Storage("f4", "0", 24)


def view(*size: int, offset: int = 0, stride: tuple[Any, ...] | None = None, storage: Storage = WHOLE) -> TensorView:
    strides = tuple(int(np.prod(size[axis + 1 :])) for axis in range(len(size)))
    return TensorView(storage, offset, size, strides if stride is None else stride)


@pytest.fixture(params=["zip", "legacy"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Write a pickle, and the numbers 0 to 23 as its storage `0`, into a container."""

    def write(content: Any, raw: bytes = VALUES.tobytes(), itemsize: int = 4) -> Path:
        content = content if isinstance(content, bytes) else pickled(content)
        path = tmp_path / "file.pth"
        if request.param == "zip":
            return write_zip(path, content, {"0": raw})
        return write_legacy(path, content, {"0": raw}, itemsize)

    return write


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableError) as refused:
        read_state_dict(path)
    (line,) = str(refused.value).splitlines()
    assert "; " in line  # the remedy
    assert len(line) < 300
    return line


def test_tensors_are_windows_on_their_storages(write: Callable[..., Path]) -> None:
    state = read_state_dict(
        write(
            {
                "whole": view(2, 3, 2, 2),
                "transposed": view(4, 6, stride=(1, 4)),
                "slice": view(3, offset=5, stride=(2,)),
                "scalar": view(offset=7),
            }
        )
    )
    assert list(state) == ["whole", "transposed", "slice", "scalar"]
    np.testing.assert_array_equal(state["whole"], VALUES.reshape(2, 3, 2, 2))
    np.testing.assert_array_equal(state["transposed"], VALUES.reshape(6, 4).T)
    np.testing.assert_array_equal(state["slice"], [5, 7, 9])
    assert state["scalar"] == 7


@pytest.mark.parametrize(("dtype", "numpy"), [("f2", "<f2"), ("f4", "<f4"), ("f8", "<f8"), ("i8", "<i8")])
def test_types_of_numbers(write: Callable[..., Path], dtype: str, numpy: str) -> None:
    raw = VALUES.astype(numpy).tobytes()
    path = write({"x": view(24, storage=Storage(dtype, "0", 24))}, raw, np.dtype(numpy).itemsize)
    np.testing.assert_array_equal(read_state_dict(path)["x"], VALUES)


def test_bfloat16_is_the_upper_half_of_float32(write: Callable[..., Path]) -> None:
    raw = (VALUES.view("u4") >> 16).astype("<u2").tobytes()
    path = write({"x": view(24, storage=Storage("bf16", "0", 24))}, raw, 2)
    np.testing.assert_array_equal(read_state_dict(path)["x"], VALUES)


def test_big_endian_files_say_so(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "big.pth", pickled({"x": view(24)}), {"0": VALUES.astype(">f4").tobytes()}, byteorder=b"big"
    )
    np.testing.assert_array_equal(read_state_dict(path)["x"], VALUES)


def test_parameters_and_the_ordered_dictionary_of_python_2(write: Callable[..., Path]) -> None:
    rebuild, ordered = named("torch._utils", "_rebuild_parameter"), named("collections", "OrderedDict")
    parameter = rebuild + encoded((view(2, 3), True, ordered + b")R")) + b"R"
    name = b"U\x06weight"
    path = write(pickled(ordered + encoded(([b"](" + name + parameter + b"e"],)) + b"R"))
    np.testing.assert_array_equal(read_state_dict(path)["weight"], VALUES[:6].reshape(2, 3))


@pytest.mark.parametrize("name", ["hostile", "hostile_legacy", "whole_module", "wrapped"])
def test_nothing_is_unpickled(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reason = refusal(FIXTURES / f"{name}.pth")
    expected = {
        "hostile": "names 'io.open', unlike a state dict; if you trust its source",
        "hostile_legacy": "names 'io.open', unlike a state dict; if you trust its source",
        "whole_module": "names 'torch.nn.modules.container.Sequential', unlike a state dict",
        "wrapped": "keys 'epoch', 'state_dict'; save the state dict alone: torch.save(loaded['state_dict'], FILE)",
    }
    assert expected[name] in reason
    assert not (tmp_path / MARK).exists()


# Pickles that would import, call or build something, or take all memory; and such as are no state dict.
PICKLES: dict[str, tuple[bytes, str]] = {
    "call": (named("posix", "system") + encoded(("touch " + MARK,)) + b"R", "names 'posix.system'"),
    "call by INST": (b"(" + encoded("touch " + MARK) + b"iposix\nsystem\n", "instruction INST"),
    "call by OBJ": (b"(" + named("torch", "FloatStorage") + b"o", "instruction OBJ"),
    "call by NEWOBJ": (named("collections", "OrderedDict") + b")\x81", "instruction NEWOBJ"),
    "name by STACK_GLOBAL": (encoded("posix") + encoded("system") + b"\x93", "instruction STACK_GLOBAL"),
    "name by number": (b"\x82\x01", "instruction EXT1"),
    "call of text": (encoded("system") + b")R", "is corrupt"),
    "call with other arguments": (named("torch._utils", "_rebuild_tensor_v2") + b")R", "is corrupt"),
    "storage by name": (encoded("0") + b"Q", "no plain storage"),
    "storage of objects": (named("torch", "Storage"), "names 'torch.Storage'"),
    "newer protocol": (b"\x80\x04" + encoded({}), "instruction PROTO"),
    "number of gigabytes": (b"\x8b" + struct.pack("<i", 2**31 - 1), "is corrupt"),
    "bytes of gigabytes": (b"\x96" + struct.pack("<Q", 2**40), "is corrupt"),
    "memo of gigabytes": (b"}r" + struct.pack("<I", 2**32 - 1) + b"0", "instruction POP"),
    "unknown instruction": (b"\xff", "is corrupt"),
    "empty stack": (b"0", "instruction POP"),
    "mark without end": (b"(" * 1000, "is corrupt"),
    "deep key": (b"})" + b"\x85" * 500_000 + b"Ns", "is corrupt"),
    "text": (encoded("weights"), "holds no state dict"),
    "nothing": (encoded({}), "holds no state dict"),
    "list": (encoded([view(24)]), "holds no state dict"),
    "itself": (b"]q\x00h\x00a", "holds no state dict"),
    "number beside tensors": (encoded({"weight": view(24), "epoch": 7}), "keys 'weight', 'epoch', which are not all"),
    "no names": (encoded({1: view(24)}), "keys '1', which are not all tensors"),
    "checkpoint of Lightning": (encoded({"state_dict": {"G.weight": view(24)}, "epoch": 7}), "loaded['state_dict']"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_other_pickles_are_refused(
    name: str, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, reason = PICKLES[name]
    assert reason in refusal(write(pickled(content)))
    assert not (tmp_path / MARK).exists()


SHAPES: dict[str, TensorView] = {
    "beyond the storage": view(25),
    "beyond the storage by its offset": view(20, offset=5),
    "beyond the storage by its stride": view(13, stride=(2,)),
    "before the storage": view(2, offset=-1),
    "backwards": view(4, offset=4, stride=(-1,)),
    "one number for terabytes": view(2**40, stride=(0,)),
    "one number for terabytes, in two axes": view(2**20, 2**20, stride=(0, 0)),
    "overlapping": view(20, 20, stride=(0, 1)),
    "empty": view(0, 4),
    "negative": view(-1),
    "of text": TensorView(WHOLE, 0, ("4",), (1,)),
    "other stride": view(4, 6, stride=(1,)),
    "five axes": view(2, 3, 2, 2, 1),
    "giant numbers": view(2**2000, stride=(1,)),
    "another size than stored": view(24, storage=Storage("f4", "0", 25)),
    "another type than stored": view(24, storage=Storage("f8", "0", 24)),
    "storage of terabytes": view(24, storage=Storage("f4", "0", 2**60)),
    "storage of negative size": view(24, storage=Storage("f4", "0", -24)),
    "storage that is not there": view(24, storage=Storage("f4", "../0", 24)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_no_size_is_believed(name: str, write: Callable[..., Path]) -> None:
    assert "is corrupt" in refusal(write({"x": SHAPES[name]}))


def test_storages_of_other_keys_are_not_looked_up(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "file.pth", pickled({"x": view(24)}), {"0": VALUES.tobytes()})
    keys = encoded(["0"])
    for other in (b"](" + b")" + b"\x85" * 500_000 + b"e", b"](Ne", encoded("0") + b"0"):
        changed = path.with_name("changed.pth")
        changed.write_bytes(path.read_bytes().replace(keys, other))
        refusal(changed)


# Squared, these would take hours and gigabytes.
PAIRS = b"](" + b"(K\x01K\x02t" * 50_000 + b"eq\x00"
LONG = {
    "marks over a tall stack": b"N" * 150_000 + b"(t" * 100_000,
    "one list for many dictionaries": PAIRS + (named("collections", "OrderedDict") + b"h\x00\x85R") * 20_000,
    "many lists": b"](" + b"](e" * 100_000 + b"e",
}


@pytest.mark.parametrize("name", LONG)
def test_a_pickle_cannot_take_long(name: str, tmp_path: Path) -> None:
    assert len(LONG[name]) < LARGEST_PICKLE
    refusal(write_zip(tmp_path / "file.pth", pickled(LONG[name]), {}))


def test_a_list_of_lists_of_one_list_is_not_printed(tmp_path: Path) -> None:
    path, good = tmp_path / "file.pth", tmp_path / "good.pth"
    levels = (b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(100))
    doubled = b"](]q\x00" + b"".join(levels) + b"e"
    assert "keys 'x', which are not all tensors" in refusal(write_zip(path, pickled({"x": doubled}), {}))
    content = write_legacy(good, pickled({"x": view(24)}), {"0": VALUES.tobytes()}).read_bytes()
    path.write_bytes(content.replace(pickled(VERSION), pickled(doubled)))
    assert "is of an unknown version" in refusal(path)


def test_a_longer_pickle_is_not_read(tmp_path: Path) -> None:
    content = pickled({"x": view(24), "y" * LARGEST_PICKLE: view(24)})
    assert "longer description" in refusal(write_zip(tmp_path / "file.pth", content, {"0": VALUES.tobytes()}))
    assert "is corrupt" in refusal(write_legacy(tmp_path / "file.pth", content, {"0": VALUES.tobytes()}))


def test_other_zip_files(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    content, storages = pickled({"x": view(24)}), {"0": VALUES.tobytes()}
    for name in ("constants.pkl", "code/__torch__.py"):
        assert f"TorchScript program; save the weights alone with PyTorch: {SAVE}" in refusal(
            write_zip(path, content, storages, **{name: b""})
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(1 << 20))
    assert re.search(r"has \d+ bytes but claims \d+", refusal(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert "torch.save did not write" in refusal(path)


def test_files_that_are_not_pytorchs(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100), np.random.default_rng(0).bytes(4096), pickled(1)):
        path.write_bytes(content)
        assert "is not a PyTorch file; name a file that torch.save" in refusal(path)
    path.write_bytes(b"PK\3\4" + bytes(100))
    assert "is corrupt" in refusal(path)
    for place in (tmp_path, tmp_path / "none.pth"):
        assert "no such file" in refusal(place)


def safetensors(path: Path, header: object, numbers: bytes = VALUES.tobytes()) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)
    return path


def entry(start: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_safetensors(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "x": entry(0, 24, 2, 3), "y": entry(24, 28), "z": entry(28, 92, 16)}
    state = read_state_dict(safetensors(tmp_path / "file.safetensors", header))
    np.testing.assert_array_equal(state["x"], VALUES[:6].reshape(2, 3))
    assert state["y"] == 6
    np.testing.assert_array_equal(state["z"], VALUES[7:23])


@pytest.mark.parametrize(
    "header",
    [
        {"x": entry(0, 2**40, 2**38)},
        {"x": entry(0, 96, 25)},
        {"x": entry(0, 96, -1)},
        {"x": entry(0, 0, 0, 3, 7, 7)},
        {"x": entry(96, 0, 24), "y": entry(0, 96, 24)},
        {f"x{number}": entry(0, 96, 24) for number in range(10)},
        {"x": entry(0, 96, 12, dtype="C64")},
        {"x": entry(0, 96, 24) | {"shape": "24"}},
        {"x": [0, 96]},
        [1],
        {},
        b"{",
        b"[" * 100_000,
        b"\x80\x02cposix\nsystem\n.",
    ],
)  # fmt: skip
def test_hostile_safetensors(header: object, tmp_path: Path) -> None:
    reason = refusal(safetensors(tmp_path / "file.safetensors", header))
    assert "is corrupt" in reason or "holds no tensors" in reason


def test_other_files_with_the_ending_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    for content in (b"", b"text", struct.pack("<Q", 2**60) + bytes(100), (FIXTURES / "pixel_batch.pth").read_bytes()):
        path.write_bytes(content)
        assert "is not a safetensors file" in refusal(path) or "is corrupt" in refusal(path)


@pytest.mark.parametrize("name", ["pixel_batch", "resnet2_instance_legacy", "resnet2_instance_dropout_1to3_torch03"])
def test_damage_is_refused_or_stays_in_the_numbers(name: str, tmp_path: Path) -> None:
    """Cut and changed bytes, mostly in what describes the tensors."""
    good, path = (FIXTURES / f"{name}.pth").read_bytes(), tmp_path / "file.pth"
    shapes = {key: array.shape for key, array in read_state_dict(FIXTURES / f"{name}.pth").items()}
    random = np.random.default_rng(0)
    for number in range(60):
        spoiled = bytearray(good)
        for _ in range(1 + number % 3):
            spoiled[random.integers(min(len(good), 4000))] = random.integers(256)
        path.write_bytes(spoiled if number % 4 else good[: random.integers(len(good))])
        try:
            state = read_state_dict(path)
        except UnreadableError:
            continue
        assert number % 4
        assert len(state) <= len(shapes)
