"""Stage split refuses raw data that it cannot use, and changes nothing."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refusals import (
    ENDINGS,
    FIVE_CHANNELS,
    LAYOUTS,
    Facts,
    Spoil,
    all_of,
    empty,
    image,
    link,
    make_folder,
    put,
    remove,
    run,
    set_params,
    snapshot,
    tiff,
)

ONE_BAD = (1, 25, "data.on_bad_image")
FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
PAIRS = "{root}/data/raw/pairs.csv"


def bad_image(content: bytes, name: str = "x.png") -> Spoil:
    return put(f"data/raw/trainA/{name}", content)


def pixel_bomb() -> bytes:
    """A valid PNG of 20,000×20,000 pixels in 48 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2501 * 20_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def same_images(root: Path) -> None:
    for path in (root / "data/raw/trainA").iterdir():
        path.write_bytes(image(1))


def same_test(root: Path) -> None:
    """Every training image of A is also a test image."""
    shutil.copytree(root / "data/raw/trainA", root / "data/raw/testA")


REFUSED: dict[str, tuple[Spoil, Facts]] = {
    # Domains.
    "no raw data": (remove("data/raw"), ["{root}/data/raw", "does not exist", "dvc repro fetch"]),
    "raw data a file": (
        all_of(remove("data/raw"), put("data/raw", "text")),
        ["{root}/data/raw", "not a folder", "dvc repro fetch"],
    ),
    "raw data empty": (all_of(remove("data/raw"), make_folder("data/raw")), ["no folders", *LAYOUTS]),
    "raw data of one domain": (remove("data/raw/trainB"), ["folders trainA", *LAYOUTS]),
    "raw data with an empty domain": (empty("data/raw/trainB"), ["domain B", "trainB", ENDINGS]),
    "one image": (empty("data/raw/trainA", keep=1), ["domain A", 0, 1, "train", "at least 2"]),
    "three images": (empty("data/raw/trainB", keep=3), ["domain B", 1, 3, "train", "at least 2"]),
    "all images the same": (same_images, ["domain A", 12, "identical"]),
    # Images.
    "zero bytes": (bad_image(b""), [*ONE_BAD, "trainA/x.png", "empty"]),
    "text with the ending of an image": (bad_image("these are my notes"), [*ONE_BAD, "trainA/x.png", FORMATS]),
    "web page with the ending of an image": (
        bad_image("<html>Not found</html>", "x.jpg"),
        [*ONE_BAD, "trainA/x.jpg", "web page"],
    ),
    "JPEG cut short": (
        bad_image(image(1, 200, 200, "JPEG")[:900], "x.jpg"),
        [*ONE_BAD, "trainA/x.jpg", "image file is truncated"],
    ),
    "PNG cut short": (bad_image(image(1, 64, 64)[:100]), [*ONE_BAD, "trainA/x.png", "image file is truncated"]),
    "one pixel": (bad_image(image(1, 1, 1)), [*ONE_BAD, "trainA/x.png", "1×1"]),
    "bomb of pixels": (bad_image(pixel_bomb()), [*ONE_BAD, "trainA/x.png", "178,956,970"]),
    "floating-point pixels": (
        bad_image(tiff(np.zeros((8, 8), np.float32)), "x.tif"),
        [*ONE_BAD, "trainA/x.tif", "floating-point", "8 or 16 bits"],
    ),
    "32-bit pixels": (
        bad_image(tiff(np.full((8, 8), 70_000, np.uint32)), "x.tif"),
        [*ONE_BAD, "trainA/x.tif", "32-bit", "8 or 16 bits"],
    ),
    "32-bit pixels that would fit into 8": (
        bad_image(tiff(np.full((8, 8), 200, np.int32)), "x.tif"),
        [*ONE_BAD, "trainA/x.tif", "32-bit", "8 or 16 bits"],
    ),
    "signed pixels": (
        bad_image(tiff(np.full((8, 8), 200, np.int16)), "x.tif"),
        [*ONE_BAD, "trainA/x.tif", "signed", "8 or 16 unsigned bits"],
    ),
    "five channels": (
        bad_image(FIVE_CHANNELS, "x.tif"),
        [*ONE_BAD, "trainA/x.tif", "5 channels", 3, "data.channels_A", "data.channels_B"],
    ),
    "corrupt TIFF": (bad_image(b"II*\0" + bytes(60), "x.tif"), [*ONE_BAD, "trainA/x.tif", FORMATS]),
    "another format under a known name": (
        bad_image(b"\0\0\0\x20ftypavif" + bytes(60), "x.jpg"),
        [*ONE_BAD, "trainA/x.jpg", FORMATS],
    ),
    "image that is a link to itself": (
        link("data/raw/trainA/x.png", "x.png"),
        ["{root}/data/raw/trainA/x.png", "Too many levels of symbolic links", "dvc repro --force fetch"],
    ),
    "several bad images": (
        all_of(bad_image(b"", "1.png"), bad_image(b"", "new\nline.png"), bad_image("<p>", "$(x).jpg")),
        [3, 26, "data.on_bad_image", "trainA/$(x).jpg", "web page", "trainA/1.png", "trainA/new\\nline.png", "empty"],
    ),
    "only bad images, skipped": (
        all_of(empty("data/raw/trainA"), bad_image(b""), set_params(data={"on_bad_image": "skip"})),
        ["domain A", 0, "train", "at least 2"],
    ),
    "test images all in train": (same_test, ["domain A", 0, 12, "train", "val or test", "at least 2"]),
    # Classes.
    "images without a class": (
        set_params(data={"labels": "folders"}),
        ["data.labels: folders", 24, "trainA/0.png, trainA/1.png", "…", "trainA/CLASS/", "data.labels: none"],
    ),
    # Pairs.
    "pair table without a column": (put("data/raw/pairs.csv", "left,right\n1,2\n"), [PAIRS, "column A", "A and B"]),
    "pair table of unknown images": (
        put("data/raw/pairs.csv", "A,B\ntrainA/0.png,trainB/99.png\n"),
        [PAIRS, "column B", "'trainB/99.png'"],
    ),
    "pair table that names an image twice": (
        put("data/raw/pairs.csv", "A,B\ntrainA/0.png,trainB/1.png\ntrainA/0.png,trainB/2.png\n"),
        [PAIRS, "column A", "'trainA/0.png'", "twice"],
    ),
    "pair table with an odd score": (
        put("data/raw/pairs.csv", "A,B,scored\ntrainA/0.png,trainB/1.png,maybe\n"),
        [PAIRS, "column scored", "'maybe'", "true or false"],
    ),
    "pair table empty": (put("data/raw/pairs.csv", ""), [PAIRS, "No columns to parse from file"]),
    "pair table not text": (put("data/raw/pairs.csv", image(1)), [PAIRS, "UTF-8"]),
    "pairs of unequal sizes": (
        all_of(
            bad_image(image(1, 32, 16), "0.png"),
            put("data/raw/pairs.csv", "A,B\ntrainA/0.png,trainB/0.png\n"),
            set_params(data={"load_size": "original"}),
        ),
        ["trainA/0", "32×16", "trainB/0", "20×16", "data.load_size"],
    ),
    "pairs not side by side": (
        all_of(remove("data/raw"), put("data/raw/train/1.png", image(1, 20, 20))),
        [1, "data.on_bad_image", "train/1.png", "20×20", "twice as wide as high"],
    ),
    # The output.
    "a file in the reports' place": (put("reports", "mine"), ["{root}/reports", "File exists"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_split_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses("split", *REFUSED[name])


@pytest.mark.parametrize("name", ["bomb of pixels"])
def test_a_process_of_its_own_prints_the_same(refuses: Callable[..., None], name: str) -> None:
    refuses("split", *REFUSED[name], own_process=True)


def test_an_earlier_result_survives_a_later_refusal(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A stage that is run by hand replaces its previous result only when the new one is complete."""
    assert run(capfd, "split")[0] == 0
    before = snapshot(project / "data")
    (project / "data/raw/trainA/new.png").write_bytes(b"")
    spoiled = snapshot(project / "data")
    assert run(capfd, "split")[0] == 2
    assert snapshot(project / "data") == spoiled
    remove("b")(project)
    assert run(capfd, "fetch")[0] == 2
    assert snapshot(project / "data") == spoiled
    assert spoiled.keys() - before.keys() == {"raw/trainA/new.png"}
