"""What follows from parameters that leave something open. It shapes the networks, hence a training's run key."""

from __future__ import annotations

from typing import Literal

from cyclegan.params.section import Size


def training_size(crop_size: Literal["whole"] | Size, load_size: Literal["original"] | Size) -> Size | None:
    """`(height, width)` of the images that the networks are trained on; None where it follows from the data."""
    if crop_size != "whole":
        return crop_size
    return None if load_size == "original" else load_size


def residual_blocks(blocks: Literal["auto"] | int, size: Size) -> int:
    """Number of residual blocks at a training size: `auto` is the paper's 6 below 256 pixels, else 9."""
    if blocks != "auto":
        return blocks
    return 9 if min(size) >= 256 else 6


def unet_depth(size: Size) -> int:
    """Halvings of a U-Net: down to one pixel on the shorter side where the size allows it."""
    return next(depth for depth in range(8, -1, -1) if all(side % 2**depth == 0 for side in size))
