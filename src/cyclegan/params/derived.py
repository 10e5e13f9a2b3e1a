"""Values that follow from parameters such as `auto`. They shape the networks, hence a training's run key."""

from __future__ import annotations

from typing import Literal

from cyclegan.params.section import Size


def training_size(crop_size: Literal["whole"] | Size, load_size: Literal["original"] | Size) -> Size | None:
    """`(height, width)` of the images that the networks are trained on; None: the data decides."""
    if crop_size != "whole":
        return crop_size
    return None if load_size == "original" else load_size


def residual_blocks(blocks: Literal["auto"] | int, size: Size) -> int:
    """Number of residual blocks at a training size: `auto` is the paper's 6 below 256 pixels, else 9."""
    if blocks != "auto":
        return blocks
    return 9 if min(size) >= 256 else 6


def unet_depth(size: Size) -> int:
    """Number of halvings of a U-Net: at most 8, and as many as both sides can be divided by two."""
    return next(depth for depth in range(8, -1, -1) if all(side % 2**depth == 0 for side in size))
