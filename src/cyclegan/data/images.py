"""One picture file → one array of integers, whatever its format, mode and depth."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = np.ndarray[Any, np.dtype[Any]]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs: 512 MiB of RGB."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Formats register themselves on first use, which is not safe in the threads that decode.
Image.init()
# What it finds wrong with a file also stands in the reason that is given for it.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
# Pillow warns at half of that limit and refuses beyond it; only the refusal is wanted here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImageError(Exception):
    """A file that is no usable picture; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Picture:
    """A decoded file at its own size."""

    pixels: Pixels
    """[H, W, C], uint8 or uint16; C = 1 (grey), 3 (RGB), 4 (RGBA), or as many as a TIFF of several channels has."""
    mode: str
    """Pillow's name of the stored form, such as `RGB`, `L`, `P`, `CMYK`, `I;16`, or `5 channels`."""


def decode(path: Path, channels: int, bit_depth: int, size: tuple[int, int] | None = None) -> Pixels:
    """Read one file as `[H, W, channels]`, uint8 (`bit_depth` 8) or uint16 (16), resized to `size` = (height, width).

    Raises:
        BadImageError: the file is missing, unreadable, no picture of a known format, or of another number of channels
            (see `to_channels`).
    """
    pixels = to_channels(read(path, bit_depth).pixels, channels)
    return pixels if size is None else resize(pixels, size)


def read(path: Path, bit_depth: int) -> Picture:
    """Decode a file: first frame, turned upright by its EXIF tag, palette resolved, transparency kept.

    A depth of 16 is kept when `bit_depth` is 16 and scaled (65535 → 255) when it is 8; 8-bit files are scaled up.
    A TIFF of several channels that are not RGB, RGBA or grey with alpha keeps them as they are.

    Raises:
        BadImageError: the file is missing, unreadable or no picture of a known format.
    """
    try:
        pixels = _many_channels(path)
        if pixels is not None:
            return Picture(_to_depth(pixels, bit_depth), f"{pixels.shape[-1]} channels")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(f"has {image.width}×{image.height} pixels, more than the limit of {MAX_PIXELS:,}")
            if min(image.size) < 2:
                raise BadImageError(f"has {image.width}×{image.height} pixels, too few to be a picture")
            mode = image.mode
            pixels = _deep_colour(path, image) if bit_depth == 16 else None
            if pixels is None:
                pixels = _pixels(ImageOps.exif_transpose(image))
            elif image.getexif().get(0x0112, 1) != 1:
                raise BadImageError("has 16-bit colour and an EXIF turn, which are not read together; save it upright")
    except BadImageError:
        raise
    except Image.DecompressionBombError:
        raise BadImageError(f"has more pixels than the limit of {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadImageError(_what_it_is(path)) from None
    except MemoryError:
        raise
    # Codecs raise nearly every exception type on damaged files: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise BadImageError(_reason(error)) from None
    return Picture(_to_depth(pixels, bit_depth), mode)


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """[H, W, C] → [H, W, channels]: transparency is laid over white, colour becomes luma (ITU-R 601).

    Raises:
        BadImageError: the numbers differ and one of them is not 1, 3 or 4.
    """
    have, top = pixels.shape[-1], np.iinfo(pixels.dtype).max
    if have == channels:
        return pixels
    if not {have, channels} <= {1, 3, 4}:
        raise BadImageError(
            f"has {have} channel{'s' if have > 1 else ''}, not {channels}; only 1, 3 and 4 can be converted "
            "(check data.channels_A and data.channels_B; a TIFF needs all channels in its first page)"
        )
    # No sum below exceeds 65535 · 65536, so 32 bits hold the exact values of either depth.
    if have == 4:
        colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
        over_white = (colour * alpha + top * (top - alpha) + top // 2) // top
        return to_channels(over_white.astype(pixels.dtype), channels)
    if have == 3 and channels == 1:
        red, green, blue = (pixels[..., i : i + 1].astype(np.uint32) for i in range(3))
        # The integer weights that Pillow's convert("L") uses.
        luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        return luma.astype(pixels.dtype)
    if have == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if channels == 4:
        opaque = np.full((*pixels.shape[:2], 1), top, pixels.dtype)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    return pixels


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Bicubic with antialiasing, as the reference implementation loads; `size` = (height, width) in pixels."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3, 4):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
    # Pillow resizes 16 bits per channel, and other numbers of channels, only as floats, one channel at a time.
    top = np.iinfo(pixels.dtype).max
    planes = pixels.astype(np.float32)
    if planes.shape[-1] == 4:
        planes[..., :3] *= planes[..., 3:] / top
    out = np.stack(
        [
            np.asarray(Image.fromarray(planes[..., c]).resize((width, height), Image.Resampling.BICUBIC))
            for c in range(planes.shape[-1])
        ],
        axis=-1,
    )
    if out.shape[-1] == 4:
        out[..., :3] *= top / np.maximum(out[..., 3:], 1)
    return np.clip(np.rint(out), 0, top).astype(pixels.dtype)


def _pixels(image: Image.Image) -> Pixels:
    """A Pillow image → [H, W, 1 | 3 | 4] in its own depth."""
    if image.mode.startswith("I"):
        if "transparency" in image.info:
            raise BadImageError("has 16-bit grey with one transparent value; save it with an alpha channel")
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError("has 32-bit pixels; save it with 8 or 16 bits")
        return values.astype(np.uint16)[..., None]
    if image.mode == "F":
        raise BadImageError("has floating-point pixels; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _deep_colour(path: Path, image: Image.Image) -> Pixels | None:
    """16-bit colour, which Pillow would cut to 8 bits, by other decoders; None for every other picture."""
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(26)
        if header[24] == 16 and header[25] != 0:
            # A late import: only this rare kind of file is worth the seconds that it takes.
            import tensorflow as tf

            pixels: Pixels = tf.io.decode_png(path.read_bytes(), dtype=tf.uint16).numpy()
            return pixels[..., [0, 0, 0, 1]] if pixels.shape[-1] == 2 else pixels
    elif image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX") and 16 in image.tag_v2.get(258, ()):  # type: ignore[attr-defined]
        import tifffile

        try:
            pixels = tifffile.imread(path, key=0)
        except Exception as error:
            raise BadImageError(
                f"has 16-bit colour in a TIFF form that is not read ({error}); save it as PNG"
            ) from None
        if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4) or pixels.dtype != np.uint16:
            raise BadImageError("has 16-bit colour in a TIFF form that is not read; save it as PNG")
        return pixels
    return None


def _many_channels(path: Path) -> Pixels | None:
    """[H, W, C] of a TIFF whose first page has several channels without a meaning as colour; None for other files."""
    with path.open("rb") as file:
        if file.read(4) not in TIFF_STARTS:
            return None
    import tifffile

    try:
        tiff = tifffile.TiffFile(path)
        page: Any = tiff.pages.first
    except Exception:
        # Pillow reads more forms of TIFF, and has the last word on what is none.
        return None
    with tiff:
        channels, height, width = page.samplesperpixel, page.imagelength, page.imagewidth
        has_alpha = any(int(kind) in (1, 2) for kind in page.extrasamples)
        is_grey = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
        if channels <= 4 and (channels == 1 or has_alpha or not is_grey):
            return None
        if height * width * channels > 4 * MAX_PIXELS:
            raise BadImageError(f"has {width}×{height} pixels of {channels} channels, more than the limit")
        if min(height, width) < 2:
            raise BadImageError(f"has {width}×{height} pixels, too few to be a picture")
        if channels == 4:
            raise BadImageError("has 4 channels that are not marked as RGBA, as which 4 are read; save it as RGBA")
        if "Orientation" in page.tags and page.tags["Orientation"].value != 1:
            raise BadImageError("has several channels and an EXIF turn, which are not read together; save it upright")
        pixels: Pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape != (height, width, channels):
        raise BadImageError(f"has {channels} channels of {pixels.dtype}; save it with 8 or 16 bits")
    return np.ascontiguousarray(pixels)


def _to_depth(pixels: Pixels, bit_depth: int) -> Pixels:
    if bit_depth == 16 and pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(257)
    if bit_depth == 8 and pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return "cannot be decoded: " + " ".join((error.strerror or str(error)).split())
    return "cannot be decoded: " + " ".join(f"{type(error).__name__}: {error}".split())


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "is empty"
    if start.lstrip().startswith(b"<"):
        return "is a web page or other text, not a picture"
    return "is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture, or its start is damaged"
