"""Between images as they are stored, as networks see them, and as people see them."""

from __future__ import annotations

from typing import Any

import numpy as np

Images = np.ndarray[Any, np.dtype[Any]]


def to_float(images: Images) -> Images:
    """uint8 or uint16 pixels → float32 in [-1, 1]."""
    half = np.float32(np.iinfo(images.dtype).max / 2)
    return images.astype(np.float32) / half - np.float32(1)


def to_integer(images: Images, bit_depth: int) -> Images:
    """Floats in [-1, 1] → uint8 (`bit_depth` 8) or uint16 (16): rounded, clipped."""
    top = 2**bit_depth - 1
    kind = {8: np.uint8, 16: np.uint16}[bit_depth]
    scaled = (np.asarray(images, np.float64) + 1) * (top / 2)
    return np.clip(np.rint(scaled), 0, top).astype(kind)


def displayable(images: Images) -> Images:
    """Turn stored images into 8-bit RGB.

    16 bits are scaled to 8; gray is repeated; transparency lies over white; two channels are red and green; of five or
    more the first three are shown.

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
