"""Embedded color profiles: conversion of 8-bit pixels to sRGB."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from cyclegan.data.images.image import Pixels, ProfileUse

# Largest difference from sRGB, of 255, at which a profile counts as sRGB: its many editions round differently.
TOLERANCE = 2
CHANNELS = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
"""Color space of a profile → Pillow's mode for its pixels."""


def to_srgb(pixels: Pixels, profile: bytes, is_cmyk: bool) -> tuple[Pixels, ProfileUse]:
    """Convert `[H, W, 1 | 3 | 4]` uint8 to sRGB with the rendering intent "perceptual".

    Gray stays one channel, and alpha and pixels in sRGB stay the same.

    Args:
        pixels: gray, RGB, RGBA, or CMYK by `is_cmyk`.
        profile: an ICC profile.
        is_cmyk: the four channels are CMYK; they become RGB only if the profile is `converted`.

    Returns:
        The pixels and the use of the profile: `unusable` if it is corrupt or for other channels.
    """
    try:
        mode, transform = _transform_of(profile)
    except MemoryError:
        raise
    # littleCMS and Pillow raise several types on a corrupt profile. The image is still usable.
    except Exception:
        return pixels, "unusable"
    channels = pixels.shape[-1]
    if (mode == "CMYK") != is_cmyk or (mode == "L" and channels == 3):
        return pixels, "unusable"
    if transform is None:
        return pixels, ""
    colors = pixels
    if mode == "L":
        colors = pixels[..., :1]
    elif not is_cmyk:
        colors = pixels[..., :3] if channels >= 3 else np.repeat(pixels, 3, axis=-1)
    out = _applied(transform, colors, mode)
    if mode == "L" or channels == 1:
        # The result is gray except for the rounding of the white point.
        out = np.repeat(out[..., 1:2], min(channels, 3), axis=-1)
    if channels == 4 and not is_cmyk:
        out = np.concatenate([out, pixels[..., 3:]], axis=-1)
    return out, "converted"


def describe_uses(counts: Mapping[ProfileUse, int]) -> list[str]:
    """Describe the numbers of images whose profile was converted or unusable; zeros are left out."""
    phrases: dict[ProfileUse, str] = {
        "converted": "converted to sRGB by their color profile",
        "unusable": "taken as sRGB, because their color profile cannot be used",
    }
    return [f"{phrase}: {counts[use]}" for use, phrase in phrases.items() if counts[use]]


@lru_cache(maxsize=32)
def _transform_of(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Pillow's mode for the pixels of a profile, and its transform to sRGB; None if the profile is sRGB."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    mode = CHANNELS[source.profile.xcolor_space]
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    # An optimized gray curve of littleCMS is ten levels off in the shadows.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(source, target, mode, "RGB", flags=flags)
    if mode == "CMYK":
        return mode, transform
    ramp = np.arange(256, dtype=np.uint8)
    probe = np.stack([ramp] * len(mode), axis=-1)
    if mode == "RGB":
        cube = np.stack(np.meshgrid(*[ramp[::51]] * 3), axis=-1).reshape(-1, 3)
        probe = np.concatenate([probe, cube])
    change = np.abs(_applied(transform, probe[None], mode).astype(int) - probe.astype(int))
    return mode, transform if change.max() > TOLERANCE else None


def _applied(transform: ImageCms.ImageCmsTransform, colors: Pixels, mode: str) -> Pixels:
    """Apply a transform: `[H, W, C]` of its mode → `[H, W, 3]` in sRGB."""
    if mode == "L":
        table = ImageCms.applyTransform(Image.fromarray(np.arange(256, dtype=np.uint8)[None]), transform)
        return np.asarray(table)[0][colors[..., 0]]
    return np.asarray(ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(colors), mode), transform))
