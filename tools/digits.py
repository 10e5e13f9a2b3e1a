"""Make the archive of MNIST and USPS images for the preset `digits`, from arrays that you have.

    python tools/digits.py FOLDER data/downloads/digits.zip --fill

FOLDER holds mnist_train.npz, mnist_test.npz, usps_train.npz and usps_test.npz. Each has images `x`, [N, H, W] uint8,
and digits `y`, [N]. In the archive, MNIST is domain A and USPS domain B. Each has a test split, and a folder for each
digit: `trainA/7/00001.png`.

A digit of USPS fills its image; a digit of MNIST has a margin. `--fill` crops every image to the bounding box of its
digit, and pads that to a square. The sets then differ in their strokes rather than in their margins. `data.load_size`
makes their sizes equal.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

# Pixels above this value belong to the digit.
INK = 64
SETS = {"trainA": "mnist_train", "testA": "mnist_test", "trainB": "usps_train", "testB": "usps_test"}


def main() -> None:
    """Write the archive and print the parameters that name it."""
    arguments = argparse.ArgumentParser(description="Make an archive of MNIST and USPS images.")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("archive", type=Path)
    arguments.add_argument("--fill", action="store_true", help="crop images to their digit")
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
                # Do not compress: the bytes would depend on the version of zlib. A member's date is 1980.
                png = io.BytesIO()
                Image.fromarray(filling(image) if fill else image).save(png, format="PNG", compress_level=0)
                target.writestr(zipfile.ZipInfo(f"{name}/{digit}/{number:05}.png"), png.getvalue())


def filling(image: np.ndarray) -> np.ndarray:
    """A digit [H, W] cropped to its bounding box, and padded with black to a square around its center."""
    rows, columns = (np.flatnonzero((image > INK).any(axis=axis)) for axis in (1, 0))
    digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    missing = [max(digit.shape) - side for side in digit.shape]
    return np.pad(digit, [(side // 2, side - side // 2) for side in missing])


if __name__ == "__main__":
    main()
