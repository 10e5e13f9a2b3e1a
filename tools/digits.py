"""Make the archive of MNIST and USPS images that the preset `digits` reads. Needed once, where you have the arrays.

    python tools/digits.py FOLDER data/downloads/digits.zip --fill

FOLDER holds mnist_train.npz, mnist_test.npz, usps_train.npz and usps_test.npz, each with the images `x`, [N, H, W]
uint8, and their digits `y`, [N]. In the archive MNIST is domain A and USPS domain B, each with its own test split and a
folder for each digit: `trainA/7/00001.png`.

A digit of USPS fills its image, one of MNIST stands in a margin. `--fill` cuts every image of both sets to the
bounding box of its digit and pads that to a square: the sets then differ in their strokes rather than in their margins.
Without it images stay as they are. `data.load_size` makes their sizes equal.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

INK = 64
"""Pixels above it belong to the digit."""
SETS = {"trainA": "mnist_train", "testA": "mnist_test", "trainB": "usps_train", "testB": "usps_test"}


def main() -> None:
    """Write the archive and print the parameters that name it."""
    arguments = argparse.ArgumentParser(description="Make an archive of MNIST and USPS images.")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("archive", type=Path)
    arguments.add_argument("--fill", action="store_true", help="cut images to their digit")
    options = arguments.parse_args()
    options.archive.parent.mkdir(parents=True, exist_ok=True)
    write(options.folder, options.archive, options.fill)
    print(f"source: file:{options.archive}\nsha256: {hashlib.sha256(options.archive.read_bytes()).hexdigest()}")


def write(folder: Path, archive: Path, fill: bool) -> None:
    """Turn the arrays of a folder into an archive; the same arrays give the same bytes."""
    with zipfile.ZipFile(archive, "w") as target:
        for name, file in SETS.items():
            with np.load(folder / f"{file}.npz", allow_pickle=False) as arrays:
                images, digits = arrays["x"], arrays["y"]
            for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
                # Not compressed: the bytes then depend on no version of zlib. A member's date is 1980, not today.
                png = io.BytesIO()
                Image.fromarray(filling(image) if fill else image).save(png, format="PNG", compress_level=0)
                target.writestr(zipfile.ZipInfo(f"{name}/{digit}/{number:05}.png"), png.getvalue())


def filling(image: np.ndarray) -> np.ndarray:
    """A digit [H, W] cut to its bounding box, which is padded with black to a square with the digit in its middle."""
    rows, columns = (np.flatnonzero((image > INK).any(axis=axis)) for axis in (1, 0))
    digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    missing = [max(digit.shape) - side for side in digit.shape]
    return np.pad(digit, [(side // 2, side - side // 2) for side in missing])


if __name__ == "__main__":
    main()
