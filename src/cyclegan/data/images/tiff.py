"""Decode TIFF files to arrays of integers. The tags decide whether tifffile or Pillow decodes a file correctly.

A TIFF file may contain almost any array. tifffile returns the stored numbers, and this module interprets them. tifffile
lacks LZW, JPEG and other compressions. Pillow has them, but it reduces 16-bit color to 8 bits and decodes some kinds of
files wrongly without an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan.data.images.image import NOT_AN_IMAGE, BadImageError, DecodedImage, Pixels, refuse_size, upright
from cyclegan.system.errors import one_line

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")
"""First bytes of files that Pillow reads as TIFF; the last two are not in the standard."""

# Numbers of the TIFF standard. tifffile has names for them, but it is imported only for TIFF files.
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_0, BLACK_IS_0, RGB = 0, 1, 2
NO_ALPHA, PREMULTIPLIED, ALPHA = 0, 1, 2
UNCOMPRESSED = 1
IN_PLANES = 2

# The error message of this module already contains what tifffile logs.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in STARTS


def read_tiff(path: Path, bit_depth: int) -> DecodedImage | None:
    """Decode the first page in its own bit depth; None if Pillow must decode it.

    Raises:
        BadImageError: the file is corrupt or an unsupported kind of TIFF.
    """
    with _first_page(path) as page:
        _refuse_samples(page)
        refuse_size(page.imagewidth, page.imagelength, page.samplesperpixel)
        mode = _mode(page)
        if mode is None:
            if (page.bitspersample, page.planarconfig, page.compression) == (16, IN_PLANES, UNCOMPRESSED):
                raise BadImageError("has 16-bit color other than RGB, in planes; save it as RGB")
            return None
        try:
            stored = page.asarray(squeeze=False)
        except MemoryError:
            raise
        # tifffile lacks the compression, or the file is corrupt.
        except Exception as error:
            if page.compression != UNCOMPRESSED and _pillow_reads(page, mode, bit_depth):
                return None
            raise BadImageError(f"is an unsupported kind of TIFF ({one_line(error)}); save it as PNG") from None
        if 0 in page.databytecounts:
            raise BadImageError("cannot be decoded: some of its pixels are missing")
        # The array is [planes, depth, H, W, samples]. Either planes or samples are the channels.
        pixels = stored[:, 0].transpose(1, 2, 0, 3).reshape(page.imagelength, page.imagewidth, -1)
        pixels = upright(_interpreted(pixels, page, mode), page.tags.valueof("Orientation", 1))
        profile = page.tags.valueof("InterColorProfile")
        return DecodedImage(pixels, mode, profile if isinstance(profile, bytes) else b"")


def tiff_size(path: Path) -> tuple[int, int]:
    """(width, height) of the first page, from its tags."""
    with _first_page(path) as page:
        return page.imagewidth, page.imagelength


@contextmanager
def _first_page(path: Path) -> Iterator[Any]:
    import tifffile

    try:
        tiff = tifffile.TiffFile(path)
        page = tiff.pages.first
    except MemoryError:
        raise
    except Exception:
        raise BadImageError(NOT_AN_IMAGE) from None
    with tiff:
        yield page


def _refuse_samples(page: Any) -> None:
    """Refuse samples other than unsigned integers of 1, 2, 4, 8 or 16 bits: they have no known range."""
    if page.sampleformat == FLOAT:
        raise BadImageError("has floating-point pixels; save it with 8 or 16 bits")
    if page.bitspersample not in (1, 2, 4, 8, 16):
        bits = "/".join(str(n) for n in np.atleast_1d(page.bitspersample))
        raise BadImageError(f"has {bits}-bit pixels; save it with 8 or 16 bits")
    if page.sampleformat != UNSIGNED:
        kind = "signed" if page.sampleformat == SIGNED else "unusual"
        raise BadImageError(f"has {kind} pixels; save it with 8 or 16 unsigned bits")


def _mode(page: Any) -> str | None:
    """Pillow's mode for the channels; None if only Pillow can decode them, such as a palette or CMYK.

    Channels other than gray, RGB and RGBA are kept without conversion.
    """
    channels, gray = page.samplesperpixel, page.photometric in (WHITE_IS_0, BLACK_IS_0)
    has_alpha = page.extrasamples[:1] in ((PREMULTIPLIED,), (ALPHA,))
    if channels == 4 and gray and not has_alpha:
        raise BadImageError("has 4 channels that are not marked as RGBA; save it as RGBA")
    if channels > 4 or (channels > 1 and gray and not has_alpha):
        if page.bitspersample < 8:
            raise BadImageError(f"has {channels} channels of {page.bitspersample} bits; save it with 8 or 16 bits")
        return f"{channels} channels"
    if page.bitspersample < 8:
        return None
    if gray and channels <= 2:
        return "LA" if channels == 2 else "L" if page.bitspersample == 8 else "I;16"
    if page.photometric == RGB and channels >= 3:
        return "RGB" if channels == 3 or page.extrasamples == (NO_ALPHA,) else "RGBA"
    return None


def _pillow_reads(page: Any, mode: str, bit_depth: int) -> bool:
    """Whether Pillow decodes a compressed file of these tags correctly; the tests cover all cases."""
    if page.planarconfig == IN_PLANES and page.extrasamples:
        return False
    if mode in ("RGB", "RGBA"):
        return page.bitspersample == 8 or bit_depth == 8
    if mode == "LA":
        return page.bitspersample == 8 and page.photometric == BLACK_IS_0 and page.extrasamples == (ALPHA,)
    return mode == "L" or (mode == "I;16" and page.photometric == BLACK_IS_0)


def _interpreted(pixels: Pixels, page: Any, mode: str) -> Pixels:
    """Convert stored channels to gray, RGB or RGBA: 0 is black, and alpha is not premultiplied."""
    if mode.endswith("channels"):
        return pixels
    top = np.iinfo(pixels.dtype).max
    if page.extrasamples[:1] == (PREMULTIPLIED,):
        color, alpha = pixels[..., :-1].astype(np.uint32), pixels[..., -1:].astype(np.uint32)
        color = np.minimum((color * top + alpha // 2) // np.maximum(alpha, 1), top)
        pixels = np.concatenate([color, alpha], axis=-1).astype(pixels.dtype)
    if page.photometric == WHITE_IS_0:
        pixels[..., 0] = top - pixels[..., 0]
    if mode == "LA":
        return pixels[..., [0, 0, 0, 1]]
    return pixels[..., :3] if mode == "RGB" else pixels
