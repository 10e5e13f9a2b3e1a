"""`tools/digits.py`: the archive that the preset `digits` reads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan.data.fetching.raw_folder import fetch
from cyclegan.data.images.decode import decode
from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.packing.pack import split
from cyclegan.params import load, read, validate
from cyclegan.project import Project

ROOT = Path(__file__).parents[2]
ARRAYS = ROOT.parent / "shared" / "data" / "digits"
FILES = {"trainA": ("mnist_train", 28), "testA": ("mnist_test", 28), "trainB": ("usps_train", 16)}
FILES |= {"testB": ("usps_test", 16)}


def archive(folder: Path, target: Path, *options: str) -> list[str]:
    """Run the tool as its description says, and return what it prints."""
    command = [sys.executable, str(ROOT / "tools" / "digits.py"), str(folder), str(target), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Four files of the published sets' form, with three images of each of two digits."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    for seed, (name, size) in enumerate(FILES.values()):
        images = np.random.default_rng(seed).integers(0, 256, (6, size, size), np.uint8)
        np.savez(folder / f"{name}.npz", x=images, y=np.array([3, 8, 8, 3, 3, 8], np.uint8))
    return folder


def test_the_pipeline_takes_the_archive(arrays: Path, project: Project) -> None:
    source, sha256 = (line.split(": ")[1] for line in archive(arrays, project.downloads / "digits.zip"))
    tree = read(ROOT / "presets" / "digits.yaml")
    tree["data"] |= {"source": source, "sha256": sha256, "val_fraction": 0.2}
    params = validate(tree)
    fetch(params.data, project)
    split(params.data, project)
    dataset = PackedDataset.open(project.split)
    assert dataset.labels("A", "test") == ["3", "3", "3", "8", "8", "8"]
    assert dataset.images("B", "test").shape == (6, *params.data.load_size, 1)
    with np.load(arrays / "mnist_train.npz") as mnist:
        for number, (image, digit) in enumerate(zip(mnist["x"], mnist["y"], strict=True)):
            packed = decode(project.raw / "trainA" / str(digit) / f"{number:05}.png", channels=1, bit_depth=8).pixels
            np.testing.assert_array_equal(packed[..., 0], image)


def test_the_same_arrays_give_the_same_archive(arrays: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.zip", tmp_path / "again.zip"
    assert archive(arrays, first)[1] == archive(arrays, again)[1] == f"sha256: {digest(first)}"
    with zipfile.ZipFile(first) as made:
        assert len(made.namelist()) == 24


def test_digits_are_cut_to_fill_their_image(arrays: Path, tmp_path: Path) -> None:
    upright = np.zeros((6, 28, 28), np.uint8)
    upright[:, 4:24, 10:15] = 200
    upright[:, 12, 12] = 90
    upright[:, 2, 2] = 30  # fainter than ink
    np.savez(arrays / "mnist_train.npz", x=upright, y=np.array([3, 8, 8, 3, 3, 8], np.uint8))
    archive(arrays, tmp_path / "digits.zip", "--fill")
    with zipfile.ZipFile(tmp_path / "digits.zip") as made, made.open("trainA/3/00000.png") as file:
        image = np.asarray(Image.open(file))
    assert image.shape == (20, 20)
    np.testing.assert_array_equal(image[:, 7:12], upright[0, 4:24, 10:15])
    assert image.sum() == upright[0, 4:24, 10:15].sum()


@pytest.mark.skipif(not ARRAYS.is_dir(), reason=f"the arrays are not in {ARRAYS}")
def test_the_preset_names_the_sum_of_the_published_sets(tmp_path: Path) -> None:
    archive(ARRAYS, tmp_path / "digits.zip", "--fill")
    assert load(ROOT / "presets" / "digits.yaml").data.sha256 == digest(tmp_path / "digits.zip")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
