"""One TIFF file → one array of integers: a look at its tags says who reads it right, and what nobody does.

TIFF is a box for almost any array. tifffile reads the numbers just as they are stored; what they mean is seen to here.
It lacks LZW, JPEG and other compressions, which Pillow has; but Pillow cuts 16-bit color to 8 bits, and reads some
forms wrongly without a word.
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
"""Of what Pillow takes for a TIFF; the last two are wrong."""

# The standard's numbers. tifffile has names for them, but is imported only when there is a TIFF.
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_0, BLACK_IS_0, RGB = 0, 1, 2
NO_ALPHA, PREMULTIPLIED, ALPHA = 0, 1, 2
UNCOMPRESSED = 1
IN_PLANES = 2

# What it finds wrong with a file also stands in the reason that is given for it.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in STARTS


def read_tiff(path: Path, bit_depth: int) -> DecodedImage | None:
    """Decode the first page, in its own depth; None where that is better left to Pillow.

    Raises:
        BadImageError: the file is damaged, or a TIFF of a form that is not read.
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
        # A compression that it lacks, or damage.
        except Exception as error:
            if page.compression != UNCOMPRESSED and _pillow_reads(page, mode, bit_depth):
                return None
            raise BadImageError(f"is a TIFF of a form that is not read ({one_line(error)}); save it as PNG") from None
        if 0 in page.databytecounts:
            raise BadImageError("cannot be decoded: some of its pixels are not there")
        # Stored are [planes, depth, H, W, samples]: either the planes or the samples are the channels.
        pixels = stored[:, 0].transpose(1, 2, 0, 3).reshape(page.imagelength, page.imagewidth, -1)
        pixels = upright(_meant(pixels, page, mode), page.tags.valueof("Orientation", 1))
        profile = page.tags.valueof("InterColorProfile")
        return DecodedImage(pixels, mode, profile if isinstance(profile, bytes) else b"")


def tiff_size(path: Path) -> tuple[int, int]:
    """(width, height) of the first page as stored, by the tags alone."""
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
    """What is not 8 or 16 bits from black to white, or the few bits of a drawing, has no brightness to go by."""
    if page.sampleformat == FLOAT:
        raise BadImageError("has floating-point pixels; save it with 8 or 16 bits")
    if page.bitspersample not in (1, 2, 4, 8, 16):
        bits = "/".join(str(n) for n in np.atleast_1d(page.bitspersample))
        raise BadImageError(f"has {bits}-bit pixels; save it with 8 or 16 bits")
    if page.sampleformat != UNSIGNED:
        kind = "signed" if page.sampleformat == SIGNED else "unusual"
        raise BadImageError(f"has {kind} pixels; save it with 8 or 16 unsigned bits")


def _mode(page: Any) -> str | None:
    """What the channels are, in Pillow's words; None where only Pillow knows what to do, as with a palette or CMYK.

    Channels that are no colors with or without alpha, whatever they are, stay as they are.
    """
    channels, gray = page.samplesperpixel, page.photometric in (WHITE_IS_0, BLACK_IS_0)
    has_alpha = page.extrasamples[:1] in ((PREMULTIPLIED,), (ALPHA,))
    if channels == 4 and gray and not has_alpha:
        raise BadImageError("has 4 channels that are not marked as RGBA, as which 4 are read; save it as RGBA")
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
    """Whether Pillow reads a compressed form of these right: the tests try them all."""
    if page.planarconfig == IN_PLANES and page.extrasamples:
        return False
    if mode in ("RGB", "RGBA"):
        return page.bitspersample == 8 or bit_depth == 8
    if mode == "LA":
        return page.bitspersample == 8 and page.photometric == BLACK_IS_0 and page.extrasamples == (ALPHA,)
    return mode == "L" or (mode == "I;16" and page.photometric == BLACK_IS_0)


def _meant(pixels: Pixels, page: Any, mode: str) -> Pixels:
    """Stored channels → gray, RGB or RGBA with 0 for black and a color that does not depend on alpha."""
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
