"""Conversions between stored images, the networks' floats, and 8-bit RGB for display."""

from __future__ import annotations

from typing import Any

import numpy as np

Images = np.ndarray[Any, np.dtype[Any]]


def to_float(images: Images) -> Images:
    """Convert uint8 or uint16 pixels to float32 in [-1, 1]."""
    half = np.float32(np.iinfo(images.dtype).max / 2)
    return images.astype(np.float32) / half - np.float32(1)


def to_integer(images: Images, bit_depth: int) -> Images:
    """Convert floats in [-1, 1] to uint8 (`bit_depth` 8) or uint16 (16), rounded and clipped."""
    top = 2**bit_depth - 1
    kind = {8: np.uint8, 16: np.uint16}[bit_depth]
    scaled = (np.asarray(images, np.float64) + 1) * (top / 2)
    return np.clip(np.rint(scaled), 0, top).astype(kind)


def displayable(images: Images) -> Images:
    """Convert stored images to 8-bit RGB for display.

    16 bits are scaled to 8. Gray is repeated, transparent images are composed over white, two channels become red and
    green, and of five or more channels the first three are used.

    Args:
        images: [N, H, W, C], uint8 or uint16.

    Returns:
        [N, H, W, 3], uint8.
    """
    channels = images.shape[-1]
    values = images.astype(np.float32) / np.iinfo(images.dtype).max
    color = values[..., :3]
    if channels == 2:
        color = np.concatenate([color, np.zeros_like(color[..., :1])], axis=-1)
    if channels == 4:
        opacity = values[..., -1:]
        color = color * opacity + (1 - opacity)
    return np.broadcast_to(np.rint(color * 255).astype(np.uint8), (*images.shape[:-1], 3))
