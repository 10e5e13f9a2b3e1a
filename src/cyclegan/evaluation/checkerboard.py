"""Known defects of generators, measured on displayed pixels: checkerboards and inverted brightness."""

from __future__ import annotations

import numpy as np

from cyclegan.models.pixels import displayable

# In quarters of the sampling frequency: patterns that repeat every two or four pixels, as strides of 2 leave them.
STRIDE_FREQUENCIES = [(u, v) for u in (0, 1, 2) for v in (0, 1, 2) if (u, v) != (0, 0)]
# The shorter side in pixels. Smaller images have too few frequencies to separate a peak from its background.
SMALLEST = 32


def luminance_correlation(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the brightness of two images, over the pixels.

    Args:
        images, others: [N, H, W, C], uint8 or uint16; channels and types may differ.

    Returns:
        [N], in -1…1; -1 for a negative. NaN if one of the two images has constant brightness.
    """
    x, y = (_luminance(each).reshape(len(each), -1) for each in (images, others))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 1e-9, (x * y).sum(axis=1) / lengths, np.nan)


class StrideSpectrum:
    """Spectral peaks at the stride frequencies, where transposed convolutions leave a checkerboard.

    The power spectra of the brightness of all images, under a Hann window, are added up. At each stride frequency the
    power is divided by its background: the mean power at a distance of two to four frequencies.
    """

    def __init__(self) -> None:
        self._peaks = np.zeros(len(STRIDE_FREQUENCIES))
        self._background = np.zeros(len(STRIDE_FREQUENCIES))
        self._has_images = False

    def add(self, images: np.ndarray) -> None:
        """Add images [N, H, W, C], uint8 or uint16; images smaller than `SMALLEST` are skipped."""
        height, width = (side // 4 * 4 for side in images.shape[1:3])
        if min(height, width) < SMALLEST:
            return
        self._has_images = True
        window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1])
        luminance = _luminance(images)[:, :height, :width]
        luminance = luminance - luminance.mean(axis=(1, 2), keepdims=True)
        power = np.square(np.abs(np.fft.fft2(luminance * window))).sum(axis=0)
        offsets = np.arange(-4, 5)
        is_background = np.maximum(np.abs(offsets)[:, None], np.abs(offsets)) >= 2
        for n, (u, v) in enumerate(STRIDE_FREQUENCIES):
            rows, columns = (u * height // 4 + offsets) % height, (v * width // 4 + offsets) % width
            self._peaks[n] += power[rows[4], columns[4]]
            self._background[n] += power[np.ix_(rows, columns)][is_background].mean()

    @property
    def energy(self) -> float | None:
        """The largest ratio of a peak to its background; 1 to 2 without a pattern, None if all images are too small."""
        if not self._has_images:
            return None
        # Images without detail have no power here except from rounding.
        return float((self._peaks / np.maximum(self._background, 1e-9)).max())


def _luminance(images: np.ndarray) -> np.ndarray:
    """Brightness of images [N, H, W, C] by ITU-R BT.601: [N, H, W], 0…1."""
    return displayable(images) @ (np.array([0.299, 0.587, 0.114]) / 255)
