"""Grids of images for display. No metric is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclegan.models.pixels import displayable

# White pixels between the images of a row. Rows are twice as far apart.
GAP = 2
# Smaller images are enlarged by the integer factor that brings them closest to this many pixels.
READABLE = 128
# Images of a comparison are reduced to this many pixels on the longer side.
LARGEST = 256
WHITE = 255
FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))

# Images of one size, `[N, H, W, C]`, or of different sizes, each `[H, W, C]`; uint8 or uint16.
Column = np.ndarray | Sequence[np.ndarray]


def sample_grid(columns: Sequence[tuple[str, Column]]) -> np.ndarray:
    """A grid with a row for each image, and a heading over each column. Large images keep their size.

    Args:
        columns: headings with images, whose channels may differ; all columns have the same number.

    Returns:
        [height, width, 3], uint8, on white.
    """
    return _headed([heading for heading, _ in columns], _uniform([images for _, images in columns]))


def columns_grid(columns: Sequence[Column]) -> np.ndarray:
    """A grid of columns without headings: [height, width, 3], uint8, on white. Large images are reduced."""
    return _table([_enlarged(_reduced(column, LARGEST)) for column in _uniform(columns)])


def comparison_grid(blocks: Sequence[Sequence[tuple[str, Column]]]) -> np.ndarray:
    """A grid of images with a heading over each column.

    Args:
        blocks: groups of columns with a wider gap between them, usually one for each direction. A column is a heading
            with images; all columns have the same number.

    Returns:
        [height, width, 3], uint8, on white.
    """
    tables = []
    for block in blocks:
        columns = [_reduced(column, LARGEST) for column in _uniform([images for _, images in block])]
        tables.append(_headed([heading for heading, _ in block], columns))
    tallest = max(len(table) for table in tables)
    return _row([_padded(table, tallest) for table in tables], gap=12 * GAP)


def strips(columns: Sequence[Column]) -> np.ndarray:
    """The rows of a grid as separate images, at about `READABLE` pixels for each image.

    Args:
        columns: with the same number of images in each.

    Returns:
        [N, height, width, 3], uint8.
    """
    scaled = [_enlarged(_reduced(column, READABLE)) for column in _uniform(columns)]
    return np.stack([_row(images) for images in zip(*scaled, strict=True)])


def stacked(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Grids [H, W, 3] one above the other, on white: [height, width, 3], uint8."""
    width = max(grid.shape[1] for grid in grids)
    padded = [np.pad(g, [(0, 4 * GAP), (0, width - g.shape[1]), (0, 0)], constant_values=WHITE) for g in grids]
    return np.concatenate(padded)


def _uniform(columns: Sequence[Column]) -> list[np.ndarray]:
    """Columns as 8-bit RGB. Images of different sizes are reduced to `LARGEST` and padded with white to one size."""
    if all(isinstance(column, np.ndarray) for column in columns):
        return [displayable(np.asarray(column)) for column in columns]
    reduced = [[_reduced(displayable(image[None]), LARGEST)[0] for image in column] for column in columns]
    height, width = np.max([image.shape[:2] for column in reduced for image in column], axis=0)
    return [
        np.stack(
            [
                np.pad(
                    image,
                    [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)],
                    constant_values=WHITE,
                )
                for image in column
            ]
        )
        for column in reduced
    ]


def _headed(headings: Sequence[str], columns: Sequence[np.ndarray]) -> np.ndarray:
    """A table of enlarged images with a heading over each column."""
    enlarged = [_enlarged(column) for column in columns]
    strips = [_heading(heading, column.shape[2]) for heading, column in zip(headings, enlarged, strict=True)]
    return np.concatenate([_row(strips), _table(enlarged)])


def _enlarged(images: np.ndarray) -> np.ndarray:
    factor = max(1, round(READABLE / max(images.shape[1:3])))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _reduced(images: np.ndarray, largest: int) -> np.ndarray:
    height, width = images.shape[1:3]
    scale = largest / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for image in images])


def _table(columns: Sequence[np.ndarray]) -> np.ndarray:
    rows = [_row(images) for images in zip(*columns, strict=True)]
    between = np.full((2 * GAP, rows[0].shape[1], 3), WHITE, np.uint8)
    stacked = [part for row in rows for part in (between, row)]
    return np.concatenate(stacked[1:])


def _row(images: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    between = np.full((len(images[0]), gap, 3), WHITE, np.uint8)
    side_by_side = [part for image in images for part in (between, image)]
    return np.concatenate(side_by_side[1:], axis=1)


def _padded(table: np.ndarray, height: int) -> np.ndarray:
    return np.pad(table, [(0, height - len(table)), (0, 0), (0, 0)], constant_values=WHITE)


def _heading(text: str, width: int) -> np.ndarray:
    """A white strip with centered text, in the largest font size that fits; a text that never fits is cut."""
    strip = Image.new("RGB", (width, 24), "white")
    draw = ImageDraw.Draw(strip)
    # Pillow's own font has no arrow.
    fonts = [ImageFont.truetype(FONT, size) for size in (14, 12, 11, 10)]
    font = next((font for font in fonts if draw.textlength(text, font) <= width - 4), fonts[-1])
    cuts = (text, *(f"{text[:length]}…" for length in range(len(text) - 1, 0, -1)))
    shown = next((cut for cut in cuts if draw.textlength(cut, font) <= width - 4), "")
    draw.text((width / 2, 12), shown, fill="black", font=font, anchor="mm")
    return np.asarray(strip)
