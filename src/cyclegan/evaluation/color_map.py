"""A baseline that uses true pairs: the best mapping of colors alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS, Direction, Split
from cyclegan.models.pixels import to_float, to_integer


@dataclass(frozen=True)
class ColorMap:
    """A quadratic function of a pixel's channels, the same for every pixel of every image.

    Attributes:
        coefficients: [monomials of degree 0 to 2, C_out].
        bit_depth: bits of each channel of the images, 8 or 16.
    """

    coefficients: np.ndarray
    bit_depth: int

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Map images [N, H, W, C], uint8 or uint16, to [N, H, W, C_out] of the same type."""
        pixels = _monomials(to_float(images).reshape(-1, images.shape[-1]))
        mapped = (pixels @ self.coefficients).reshape(*images.shape[:-1], -1)
        return to_integer(mapped, self.bit_depth)


def fit_color_map(dataset: PackedDataset, split: Split, direction: Direction) -> ColorMap | None:
    """Fit the map by least squares to all pixels of a split's scored pairs; returns None without such pairs."""
    source, target = DIRECTIONS[direction]
    pairs = dataset.pairs(split)
    index = {"A": pairs.index_A, "B": pairs.index_B}
    images, others = dataset.images(source, split), dataset.images(target, split)
    products, moments = np.zeros(()), np.zeros(())
    for pair in np.flatnonzero(pairs.scored):
        x = _monomials(to_float(np.asarray(images[int(index[source][pair])])).reshape(-1, images.shape[-1]))
        y = to_float(np.asarray(others[int(index[target][pair])])).reshape(-1, others.shape[-1])
        products, moments = products + x.T @ x, moments + x.T @ y
    if not pairs.scored.any():
        return None
    # Images of few colors leave some monomials undetermined, for which `solve` fails.
    coefficients = np.linalg.lstsq(products, moments, rcond=None)[0]
    return ColorMap(coefficients, dataset.bit_depth)


def _monomials(pixels: np.ndarray) -> np.ndarray:
    """[P, C] → [P, 1 + C + C (C + 1) / 2], float64: 1, each channel, each product of two channels."""
    pixels = pixels.astype(np.float64)
    rows, columns = np.triu_indices(pixels.shape[1])
    return np.concatenate([np.ones((len(pixels), 1)), pixels, pixels[:, rows] * pixels[:, columns]], axis=1)
