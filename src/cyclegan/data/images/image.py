"""The result, the error and the limits that all image decoders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Pixels = np.ndarray[Any, np.dtype[Any]]
ProfileUse = Literal["", "converted", "unusable"]
"""Use of a color profile: not needed (empty), `converted` to sRGB, or `unusable` (corrupt, other channels)."""

MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs: 512 MiB of RGB."""

NOT_AN_IMAGE = "is not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or its header is corrupt"


class BadImageError(Exception):
    """The file is not a usable image. The message is the reason, without the file name."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded file at its original size."""

    pixels: Pixels
    """[H, W, C], uint8 or uint16; C = 1 (gray), 3 (RGB), 4 (RGBA), or any other number in a TIFF file."""
    mode: str
    """Pillow's mode of the file, such as `RGB`, `L`, `P`, `CMYK` or `I;16`, or else `5 channels`."""
    profile: bytes = b""
    """The embedded ICC profile, if it has not been applied yet."""
    profile_use: ProfileUse = ""


def refuse_size(width: int, height: int, channels: int = 4) -> None:
    """Check the size of an image before its pixels are decoded.

    Raises:
        BadImageError: the image has too many pixels or too few.
    """
    if width * height > MAX_PIXELS:
        raise BadImageError(f"has {width}×{height} pixels, above the limit of {MAX_PIXELS:,}")
    if width * height * channels > 4 * MAX_PIXELS:
        raise BadImageError(f"has {width}×{height} pixels of {channels} channels, above the limit")
    if min(width, height) < 2:
        raise BadImageError(f"has {width}×{height} pixels, too few to be an image")


def upright(pixels: Pixels, turn: int) -> Pixels:
    """Undo the rotation of a camera, given by the value 1…8 of the EXIF tag Orientation."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
