from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan import params
from cyclegan.project import Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    return Project(root=root, home=root)


@pytest.fixture
def data() -> Callable[..., params.Data]:
    """Builds the section `data` of the parameters, with small defaults."""

    def build(**changes: object) -> params.Data:
        values = {
            "source": "fluent-emoji",
            "sha256": None,
            "folder_A": params.FOLDER_A,
            "folder_B": params.FOLDER_B,
            "name": None,
            "load_size": 16,
            "channels_A": 3,
            "channels_B": 3,
            "bit_depth": 8,
            "val_fraction": 0.2,
            "test_fraction": 0.2,
            "seed": 1,
            "on_bad_image": "fail",
            "labels": "none",
        }
        return params.Data(**(values | changes))

    return build


@pytest.fixture
def folders(project: Project, data: Callable[..., params.Data]) -> Callable[..., params.Data]:
    """The same for two local folders `a` and `b` in the project."""

    def build(**changes: object) -> params.Data:
        return data(**({"source": "folders", "folder_A": "a", "folder_B": "b"} | changes))

    return build


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Writes an image of random pixels; equal seeds give equal pixels."""

    def write(path: Path, seed: int, width: int = 20, height: int = 16, mode: str = "RGB", **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Large blocks of color survive JPEG and resizing.
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 4), np.uint8)
        channels = len(Image.new(mode, (1, 1)).getbands()) if mode != "P" else 3
        form = {1: "L", 3: "RGB", 4: mode if mode in ("RGBA", "CMYK") else "RGBA"}[channels]
        block = Image.frombytes(form, (4, 4), pixels[..., :channels].tobytes())
        image = block.resize((width, height), Image.Resampling.NEAREST)
        image.convert(mode).save(path, **options)
        return path

    return write


@pytest.fixture
def paint_domains(paint: Callable[..., Path]) -> Callable[..., None]:
    """Fills folders with different images: `paint_domains(root, trainA=6, trainB=6)`."""

    def write(root: Path, **counts: int) -> None:
        for number, (name, count) in enumerate(counts.items()):
            for i in range(count):
                paint(root / name / f"{i:03}.png", seed=1000 * number + i)

    return write
