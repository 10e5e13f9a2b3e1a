"""Decode image files of any format, mode and bit depth to arrays of integers."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cyclegan.data.images.color_profile import to_srgb
from cyclegan.data.images.image import MAX_PIXELS, NOT_AN_IMAGE, DecodedImage, refuse_size, upright
from cyclegan.data.images.image import BadImageError as BadImageError
from cyclegan.data.images.image import Pixels as Pixels
from cyclegan.data.images.tiff import STARTS as TIFF_STARTS
from cyclegan.data.images.tiff import is_tiff, read_tiff, tiff_size
from cyclegan.system.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# Formats register themselves on first use. This is not thread-safe, so do it here.
Image.init()
# Pillow warns above half of its limit and refuses larger images. Only the refusal is useful.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: Path, channels: int, bit_depth: int) -> DecodedImage:
    """Read one file as `[H, W, channels]`, uint8 (`bit_depth` 8) or uint16 (16).

    Raises:
        BadImageError: the file is missing, unreadable or of an unknown format, or its channels cannot be converted.
        MemoryError: the image does not fit into memory; see `no_memory_for`.
    """
    image = read(path, bit_depth)
    return replace(image, pixels=to_channels(image.pixels, channels))


def read(path: Path, bit_depth: int) -> DecodedImage:
    """Decode the first frame of a file, upright by its EXIF tag, without palette, with transparency.

    Pixels are scaled to `bit_depth` (65535 ↔ 255). A TIFF file keeps channels that are not gray, RGB or RGBA. An
    embedded color profile converts pixels to sRGB, except for 16-bit pixels that stay 16-bit.

    Raises:
        BadImageError: the file is missing, unreadable or of an unknown format.
        MemoryError: the image does not fit into memory; see `no_memory_for`.
    """
    try:
        image = read_tiff(path, bit_depth) if is_tiff(path) else None
        if image is None:
            image = _by_pillow(path, bit_depth)
    except BadImageError:
        raise
    except Image.DecompressionBombError:
        raise BadImageError(f"has more pixels than the limit of {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadImageError(_what_it_is(path)) from None
    except MemoryError:
        raise
    # Codecs raise nearly every exception type on corrupt files: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        if str(error).startswith("out of memory"):
            raise MemoryError from None
        raise BadImageError(_reason(error)) from None
    image = _in_srgb(image if bit_depth == 16 else replace(image, pixels=_to_depth(image.pixels, 8)))
    return replace(image, pixels=_to_depth(image.pixels, bit_depth))


def size(path: Path) -> tuple[int, int]:
    """(width, height) as stored in the file's header; (0, 0) if it has none: then `read` fails, too."""
    try:
        if is_tiff(path):
            return tiff_size(path)
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:
        return 0, 0


def no_memory_for(path: Path, name: str) -> UserError:
    """The user's error for a MemoryError of `read`."""
    width, height = size(path)
    return UserError(
        f"{name}: out of memory for {width}×{height} pixels; make the image smaller, end other programs, or use a "
        "machine with more memory"
    )


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """Convert `[H, W, C]` to `[H, W, channels]`: alpha is blended with white, color becomes luma (ITU-R 601).

    Raises:
        BadImageError: the numbers of channels differ, and one of them is not 1, 3 or 4.
    """
    have, top = pixels.shape[-1], np.iinfo(pixels.dtype).max
    if have == channels:
        return pixels
    if not {have, channels} <= {1, 3, 4}:
        raise BadImageError(
            f"has {have} channel{'s' if have > 1 else ''}, not {channels}; only 1, 3 and 4 can be converted "
            "(check data.channels_A and data.channels_B; a TIFF needs all channels in its first page)"
        )
    # No sum below exceeds 65535 · 65536: 32 bits are exact for both bit depths.
    if have == 4:
        color, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
        over_white = (color * alpha + top * (top - alpha) + top // 2) // top
        return to_channels(over_white.astype(pixels.dtype), channels)
    if have == 3 and channels == 1:
        red, green, blue = (pixels[..., i : i + 1].astype(np.uint32) for i in range(3))
        # The integer weights of Pillow's convert("L").
        luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        return luma.astype(pixels.dtype)
    if have == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if channels == 4:
        opaque = np.full((*pixels.shape[:2], 1), top, pixels.dtype)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    return pixels


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to `(height, width)`, bicubic with antialiasing, as in the reference implementation."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3, 4):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
    # Pillow resizes 16-bit channels, and other numbers of channels, only as floats, one channel at a time.
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


def _by_pillow(path: Path, bit_depth: int) -> DecodedImage:
    # Open the file first: from a path, Pillow maps uncompressed pixels into memory and transposes them wrongly.
    with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        refuse_size(*image.size)
        mode = image.mode
        if image.format == "PNG" and _png_bits(path) == 16:
            if "transparency" in image.info:
                kind = "gray" if mode == "I;16" else "color"
                raise BadImageError(f"has 16-bit {kind} with one transparent value; save it with an alpha channel")
            if bit_depth == 16 and mode != "I;16":
                return DecodedImage(upright(_deep_color(path), image.getexif().get(0x0112, 1)), mode)
        # In place: a copy of a large image takes half a gigabyte.
        ImageOps.exif_transpose(image, in_place=True)
        profile = image.info.get("icc_profile") or b""
        return DecodedImage(np.asarray(image) if mode == "CMYK" and profile else _pixels(image), mode, profile)


def _in_srgb(image: DecodedImage) -> DecodedImage:
    """Apply the color profile if the image has a usable one."""
    pixels, is_cmyk = image.pixels, image.mode == "CMYK"
    if not image.profile or pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3, 4):
        return image
    pixels, use = to_srgb(pixels, image.profile, is_cmyk)
    if is_cmyk and use != "converted":
        pixels = np.asarray(Image.fromarray(pixels, "CMYK").convert("RGB"))
    return DecodedImage(pixels, image.mode, profile_use=use)


def _pixels(image: Image.Image) -> Pixels:
    """A Pillow image as `[H, W, 1 | 3 | 4]` in its own bit depth."""
    if image.mode in ("I", "F"):
        raise BadImageError("has 32-bit pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _png_bits(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _deep_color(path: Path) -> Pixels:
    """The pixels of a PNG file with 16-bit color, which Pillow would reduce to 8 bits."""
    # Imported here, because it takes seconds and such files are rare.
    import tensorflow as tf

    pixels: Pixels = tf.io.decode_png(path.read_bytes(), dtype=tf.uint16).numpy()
    return pixels[..., [0, 0, 0, 1]] if pixels.shape[-1] == 2 else pixels


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
        return "is a web page or other text, not an image"
    if start.startswith(TIFF_STARTS):
        return "is an unsupported kind of TIFF; save it as PNG"
    return NOT_AN_IMAGE
