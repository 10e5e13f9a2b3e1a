"""What the decoders of images have in common: what they return, what they refuse with, and the limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Pixels = np.ndarray[Any, np.dtype[Any]]
ProfileUse = Literal["", "converted", "unusable"]
"""What came of an embedded color profile: there is none or it is sRGB, the pixels were converted, or it is corrupt or
made for other channels."""

MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs: 512 MiB of RGB."""

NOT_AN_IMAGE = "is not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or its start is damaged"


class BadImageError(Exception):
    """A file that is no usable image; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded file at its own size."""

    pixels: Pixels
    """[H, W, C], uint8 or uint16; C = 1 (gray), 3 (RGB), 4 (RGBA), or as many as a TIFF of several channels has."""
    mode: str
    """Pillow's name of the stored form, such as `RGB`, `L`, `P`, `CMYK`, `I;16`, or `5 channels`."""
    profile: bytes = b""
    """The embedded ICC profile that has not been applied yet."""
    profile_use: ProfileUse = ""


def refuse_size(width: int, height: int, channels: int = 4) -> None:
    """Called before the pixels are decoded.

    Raises:
        BadImageError: there are too many of them for an image, or too few.
    """
    if width * height > MAX_PIXELS:
        raise BadImageError(f"has {width}×{height} pixels, more than the limit of {MAX_PIXELS:,}")
    if width * height * channels > 4 * MAX_PIXELS:
        raise BadImageError(f"has {width}×{height} pixels of {channels} channels, more than the limit")
    if min(width, height) < 2:
        raise BadImageError(f"has {width}×{height} pixels, too few to be an image")


def upright(pixels: Pixels, turn: int) -> Pixels:
    """Undo the turn in which a camera stored the image: 1…8, the values of the EXIF tag Orientation."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
