"""What is found out about image files: real ones, of every kind."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cyclegan.advice.inspection import Inspection, inspect_archive, inspect_folders
from cyclegan.params import Data
from cyclegan.project import Project
from cyclegan.system.errors import UserError

ROOT = Path(__file__).parents[2]


def paint(folder: Path, count: int, seed: int, size: tuple[int, int] = (20, 24), mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)):
        Image.fromarray(pixels).convert(mode).save(folder / f"{n}.png")


def inspected(root: Path) -> Inspection:
    data = Data(source="folders", folder_A="a", folder_B="b")
    return inspect_folders(data, Project(root=root, home=root))


def test_counts_sizes_channels_and_what_is_wrong(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "below", 5, seed=0)
    paint(tmp_path / "a" / "gray", 2, seed=1, size=(40, 30), mode="L")
    (tmp_path / "a" / "twin.png").write_bytes((tmp_path / "a" / "below" / "0.png").read_bytes())
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (tmp_path / "a" / "notes.txt").write_text("x")
    paint(tmp_path / "b", 4, seed=2)
    (tmp_path / "b" / "both.png").write_bytes((tmp_path / "a" / "below" / "1.png").read_bytes())
    found = inspected(tmp_path)
    a, b = found.domains["A"], found.domains["B"]
    assert (a.total, a.duplicates, dict(a.channels)) == (7, 1, {3: 6, 1: 2})
    assert (a.smallest, a.largest, a.side) == ((20, 24), (40, 30), 20)
    assert list(a.unreadable or {}) == ["broken.png"]
    assert a.line == "7 images, 24×20 to 30×40 pixels, 2 gray, 6 RGB, 8 bits, 1 duplicates, 1 unreadable"
    assert (b.total, b.duplicates, found.in_both, found.has_pairs) == (5, 0, 1, False)
    sample = found.sample("A", 3, 16, channels=1)
    assert (sample.shape, sample.dtype) == ((3, 16, 16, 1), np.uint8)


def test_sixteen_bits_are_those_that_eight_cannot_hold(tmp_path: Path) -> None:
    paint(tmp_path / "b", 4, seed=2)
    (tmp_path / "a").mkdir()
    draws = np.random.default_rng(0)
    for n in range(4):
        deep = draws.integers(0, 65536, (8, 8), np.uint16)
        Image.fromarray(deep if n else deep // 256 * 257).save(tmp_path / "a" / f"{n}.png")
    found = inspected(tmp_path)
    assert (found.domains["A"].deep, found.domains["B"].deep) == (3, 0)


def test_an_archive_keeps_its_splits(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 2)):
        for number, domain in enumerate("AB"):
            paint(tmp_path / "set" / f"{split}{domain}", count, seed=10 * number + count)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))
    with inspect_archive(tmp_path / "set.zip") as found:
        assert dict(found.domains["A"].counts) == {"train": 5, "test": 2}
        # Test images take no part in any choice.
        assert len(found.sample("B", 100, 16, channels=3)) == 5
        folder = found.images["A"][0].path
    assert not folder.exists()


def test_pairs_side_by_side_are_both_domains(tmp_path: Path) -> None:
    paint(tmp_path / "set" / "train", 5, seed=0, size=(16, 32))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))
    with inspect_archive(tmp_path / "set.zip") as found:
        assert found.has_pairs
        assert [found.domains[domain].largest for domain in ("A", "B")] == [(16, 16), (16, 16)]


def test_the_emoji() -> None:
    data = Data(source="folders", folder_A="data/fluent-emoji/trainA", folder_B="data/fluent-emoji/trainB")
    found = inspect_folders(data, Project(root=ROOT, home=ROOT))
    assert [found.domains[domain].side for domain in ("A", "B")] == [64, 64]
    assert [found.domains[domain].unreadable for domain in ("A", "B")] == [{}, {}]
    assert found.in_both == 0


def test_channels_that_cannot_be_converted(tmp_path: Path) -> None:
    paint(tmp_path / "a", 4, seed=0)
    paint(tmp_path / "b", 4, seed=1)
    pixels = np.zeros((8, 8, 5), np.uint8)
    tifffile.imwrite(tmp_path / "b" / "x.tif", pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(
        UserError, match=r"domain B: mixes 4 images of 3 channels and 1 images of 5 channels, .* separate"
    ):
        inspected(tmp_path)
