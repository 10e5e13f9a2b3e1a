"""Distances between stored images, which are batches of unsigned integers."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

# PSNR of identical images in dB. The true value is infinite, which neither JSON nor a mean can hold.
PSNR_CAP = 100.0


def l1(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean absolute error of each image, in 0…1 of the full range.

    Args:
        images: [N, H, W, C], uint8 or uint16.
        others: the same shape and type.

    Returns:
        [N], float64.
    """
    return np.abs(_difference(images, others)).mean(axis=(1, 2, 3))


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, at most `PSNR_CAP`.

    It is 10 log10(1 / MSE) with errors in 0…1 of the full range. Decibels are averaged over images.

    Args and Returns: as `l1`.
    """
    squared = np.square(_difference(images, others)).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(squared, 10 ** (-PSNR_CAP / 10)))


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity of each image, in -1…1 (Wang et al. 2004, as scikit-image computes it).

    The window is uniform, 7×7; the result is the mean over channels and positions. Sides below 7 pixels use the
    largest odd window that fits. A window of one pixel leaves only the luminance term.

    Args and Returns: as `l1`.
    """
    data_range = _full_range(images, others)
    side = min(7, *images.shape[1:3])
    window = side - 1 + side % 2
    values = [
        structural_similarity(  # type: ignore[no-untyped-call]
            image, other, win_size=window, use_sample_covariance=window > 1, channel_axis=2, data_range=data_range
        )
        for image, other in zip(images, others, strict=True)
    ]
    return np.array(values, dtype=np.float64)


def _difference(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    full_range = _full_range(images, others)
    return (images.astype(np.float64) - others.astype(np.float64)) / full_range


def _full_range(images: np.ndarray, others: np.ndarray) -> int:
    if images.shape != others.shape or images.dtype != others.dtype or images.ndim != 4:
        raise ValueError(
            f"images: cannot compare {images.dtype} {images.shape} with {others.dtype} {others.shape}; "
            "pass two batches [N, H, W, C] of one type"
        )
    if images.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"images: expected uint8 or uint16, not {images.dtype}; convert them with to_integer")
    return int(np.iinfo(images.dtype).max)
