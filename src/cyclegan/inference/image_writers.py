"""Writers of image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from cyclegan.system.errors import UserError
from cyclegan.system.files import replacing

# Channels and bit depths of each format.
FORMATS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "png": ((1, 3, 4), (8, 16)),
    "jpg": ((1, 3), (8,)),
    "webp": ((3, 4), (8,)),
    "tif": (tuple(range(1, 17)), (8, 16)),
}
# Quality of JPEG and WebP, 0…100: the losses are hardly visible.
QUALITY = 95

Write = Callable[[Path, np.ndarray], None]


def writer(file_format: str | None, channels: int, bit_depth: int) -> tuple[str, Write]:
    """The file name extension of a format, and the function that writes an image `[H, W, C]` to a path.

    Args:
        file_format: a key of `FORMATS`; None: png, or tif for other channels than 1, 3 and 4.

    Raises:
        UserError: the format cannot store these channels or this bit depth.
    """
    if file_format is None:
        file_format = "png" if channels in FORMATS["png"][0] else "tif"
    allowed_channels, depths = FORMATS[file_format]
    if channels not in allowed_channels or bit_depth not in depths:
        raise UserError(
            f"--format {file_format}: cannot store {channels} channels of {bit_depth} bits; use tif, or leave it out"
        )
    return file_format, {"png": write_png, "tif": _write_tiff}.get(file_format, _write_lossy)


def write_png(target: Path, image: np.ndarray) -> None:
    """Write a PNG file."""
    # Use TensorFlow's encoder, because Pillow has no 16-bit color. With a small network, the default compression takes
    # most of the time. This one takes a quarter of it, and files are a fifth larger.
    encoded = tf.io.encode_png(image, compression=1).numpy()
    with replacing(target) as temporary:
        temporary.write_bytes(encoded)


def _write_lossy(target: Path, image: np.ndarray) -> None:
    """Write a JPEG or WebP file, by the extension of `target`."""
    kind = "JPEG" if target.suffix == ".jpg" else "WEBP"
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    with replacing(target) as temporary:
        Image.fromarray(pixels).save(temporary, kind, quality=QUALITY)


def _write_tiff(target: Path, image: np.ndarray) -> None:
    with replacing(target) as temporary:
        # Imported here, because a server does not need it.
        import tifffile

        gray: dict[str, Any] = {"photometric": "minisblack"}
        color: dict[str, Any] = {"photometric": "rgb", "planarconfig": "contig"}
        match image.shape[-1]:
            case 1:
                tifffile.imwrite(temporary, image[..., 0], **gray)
            case 3:
                tifffile.imwrite(temporary, image, **color)
            case 4:
                tifffile.imwrite(temporary, image, extrasamples=("unassalpha",), **color)
            case _:
                tifffile.imwrite(temporary, image, planarconfig="contig", **gray)
