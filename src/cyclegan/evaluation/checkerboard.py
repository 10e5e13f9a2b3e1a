"""Traces of what generators are known to do wrong, measured on pixels as they are shown."""

from __future__ import annotations

import numpy as np

from cyclegan.models.pixels import displayable

STRIDE_FREQUENCIES = [(u, v) for u in (0, 1, 2) for v in (0, 1, 2) if (u, v) != (0, 0)]
"""In quarters of the sampling frequency: where two and four pixels repeat, as strides of 2 leave them."""
SMALLEST = 32
"""Images with a shorter side have too few frequencies to tell a peak from its surroundings."""


def luminance_correlation(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How the brightness of each image follows that of the other: Pearson's correlation over the pixels.

    Args:
        images, others: [N, H, W, C], uint8 or uint16; channels and types may differ.

    Returns:
        [N], in -1…1: -1 for a negative; NaN where one of the two is of one brightness throughout.
    """
    x, y = (_luminance(each).reshape(len(each), -1) for each in (images, others))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 1e-9, (x * y).sum(axis=1) / lengths, np.nan)


class StrideSpectrum:
    """How far a spectrum stands out at the stride frequencies, where transposed convolutions leave a checkerboard.

    The power spectra of all images (of the brightness, under a Hann window) are added up; at each stride frequency
    the power is divided by the mean power two to four frequencies around it.
    """

    def __init__(self) -> None:
        self._peaks = np.zeros(len(STRIDE_FREQUENCIES))
        self._surroundings = np.zeros(len(STRIDE_FREQUENCIES))
        self._measured = False

    def add(self, images: np.ndarray) -> None:
        """Take in images [N, H, W, C], uint8 or uint16; those smaller than `SMALLEST` are passed over."""
        height, width = (side // 4 * 4 for side in images.shape[1:3])
        if min(height, width) < SMALLEST:
            return
        self._measured = True
        window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1])
        shown = _luminance(images)[:, :height, :width]
        shown = shown - shown.mean(axis=(1, 2), keepdims=True)
        power = np.square(np.abs(np.fft.fft2(shown * window))).sum(axis=0)
        around = np.arange(-4, 5)
        outer = np.maximum(np.abs(around)[:, None], np.abs(around)) >= 2
        for n, (u, v) in enumerate(STRIDE_FREQUENCIES):
            rows, columns = (u * height // 4 + around) % height, (v * width // 4 + around) % width
            self._peaks[n] += power[rows[4], columns[4]]
            self._surroundings[n] += power[np.ix_(rows, columns)][outer].mean()

    @property
    def energy(self) -> float | None:
        """The largest of the ratios, about 1 to 2 where nothing stands out; None where no image was large enough."""
        if not self._measured:
            return None
        # Images without any detail have no power there at all, but for rounding.
        return float((self._peaks / np.maximum(self._surroundings, 1e-9)).max())


def _luminance(images: np.ndarray) -> np.ndarray:
    """[N, H, W], 0…1: the weights of ITU-R BT.601."""
    return displayable(images) @ (np.array([0.299, 0.587, 0.114]) / 255)
