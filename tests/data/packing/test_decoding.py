"""Decoding a folder must not need more memory than is available."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan import params
from cyclegan.data.images import decode as images
from cyclegan.data.images.image import DecodedImage
from cyclegan.data.images.layout import list_images
from cyclegan.data.packing import decoding as decoded
from cyclegan.project import Project

Build = Callable[..., params.Data]


def claim(path: Path, width: int, height: int) -> Path:
    """A tiny PNG file that claims any size in RGB: memory is wanted before the lie is found out."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    raw = bytearray(buffer.getvalue())
    struct.pack_into(">II", raw, 16, width, height)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    path.write_bytes(raw)
    return path


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from cyclegan import params
from cyclegan.data.packing.pack import split
from cyclegan.system.errors import UserError
from cyclegan.project import Project

# 250 MB more than this process has, and no more.
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 250_000_000, resource.RLIM_INFINITY))
try:
    split(params.Data.model_validate_json(sys.argv[2]), Project(root=Path(sys.argv[1]), home=Path(sys.argv[1])))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process")
@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
def test_too_little_memory_names_the_image(
    project: Project, data: Build, paint_domains: Callable[..., None], on_bad_image: str
) -> None:
    paint_domains(project.raw, trainA=6, trainB=6)
    claim(project.raw / "trainA" / "new\nline.png", 12_000, 11_000)
    # A process of its own: this one may hold free memory from other tests.
    options = data(on_bad_image=on_bad_image).model_dump_json()
    arguments = [sys.executable, "-W", "ignore", "-c", LITTLE_MEMORY, str(project.root), options]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("trainA/new\\nline.png"), done.stderr
    assert "12000×11000" in line
    assert "memory" in line
    assert not project.split.exists()


def test_out_of_memory_in_a_decoder_is_no_corrupt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise OSError(f"{Image.core.getcodecstatus(-9)} when reading image file")

    path = claim(tmp_path / "x.png", 20, 20)
    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        images.read(path, 8)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "deep.tif"])
def test_the_size_stands_in_the_head(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((30, 20), np.uint16 if name == "deep.tif" else np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    assert images.size(tmp_path / name) == (20, 30)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:10])
    assert images.size(tmp_path / name) == (0, 0)
    assert images.size(tmp_path / "none.png") == (0, 0)


def test_large_images_take_turns(project: Project, data: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panoramas on many cores: together they would take more memory than there is."""
    for domain in ("trainA", "trainB"):
        (project.raw / domain).mkdir(parents=True)
        for n in range(4):
            claim(project.raw / domain / f"large {n}.png", 6000, 5001)
            claim(project.raw / domain / f"small {n}.png", 6000, 5000)
    lock, at_work, most = threading.Lock(), {"large": 0, "small": 0}, {"large": 0, "small": 0}

    def read(path: Path, bit_depth: int) -> DecodedImage:
        kind = path.name.split()[0]
        with lock:
            at_work[kind] += 1
            most[kind] = max(most[kind], at_work[kind])
        time.sleep(0.1)
        with lock:
            at_work[kind] -= 1
        raise images.BadImageError("is a claim")

    monkeypatch.setattr(images, "read", read)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    found = list_images(project.raw)
    _, left_out = decoded.decode_all(found, data(), {})
    assert len(left_out) == len(found) == 16
    assert most["large"] == 1
    assert most["small"] > 1
