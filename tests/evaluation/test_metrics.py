from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan.evaluation.metrics import PSNR_CAP, l1, psnr, ssim


def two(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two related images: noise, and the same noise with other noise added."""
    rng, top = np.random.default_rng(seed), np.iinfo(dtype).max
    one = rng.integers(0, top, shape, endpoint=True)
    other = np.clip(one + rng.integers(-top // 4, top // 4, shape), 0, top)
    return one.astype(dtype), other.astype(dtype)


def reference_ssim(one: np.ndarray, other: np.ndarray, side: int = 7) -> float:
    """Wang et al. 2004 for one image, window by window: sample (co)variances, mean over positions and channels."""
    top = np.iinfo(one.dtype).max
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
    height, width, channels = one.shape
    values = []
    for c in range(channels):
        for y in range(height - side + 1):
            for x in range(width - side + 1):
                a = one[y : y + side, x : x + side, c].astype(float).ravel()
                b = other[y : y + side, x : x + side, c].astype(float).ravel()
                variance = np.cov(a, b) if side > 1 else np.zeros((2, 2))
                luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
                structure = (2 * variance[0, 1] + c2) / (variance[0, 0] + variance[1, 1] + c2)
                values.append(luminance * structure)
    return float(np.mean(values))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_against_plain_formulas(dtype: type, channels: int) -> None:
    one, other = two((3, 11, 9, channels), dtype)
    top = np.iinfo(dtype).max
    for n in range(3):
        errors = [(int(a) - int(b)) / top for a, b in zip(one[n].flat, other[n].flat, strict=True)]
        mse = sum(e * e for e in errors) / len(errors)
        assert l1(one, other)[n] == pytest.approx(sum(abs(e) for e in errors) / len(errors))
        assert psnr(one, other)[n] == pytest.approx(10 * math.log10(1 / mse))
        assert ssim(one, other)[n] == pytest.approx(reference_ssim(one[n], other[n]))


@pytest.mark.parametrize(
    ("size", "window"), [((7, 20), 7), ((6, 9), 5), ((5, 5), 5), ((3, 4), 3), ((2, 8), 1), ((1, 1), 1)]
)
def test_ssim_of_tiny_images(size: tuple[int, int], window: int) -> None:
    one, other = two((1, *size, 3))
    assert ssim(one, other)[0] == pytest.approx(reference_ssim(one[0], other[0], window))


def test_extremes() -> None:
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    assert l1(black, white) == 1
    assert psnr(black, white) == pytest.approx(0)
    assert ssim(black, white) == pytest.approx(0.0001, rel=1e-2)
    assert (l1(white, white), psnr(white, white), ssim(white, white)) == (0, PSNR_CAP, 1)


@pytest.mark.parametrize(("dtype", "decibels"), [(np.uint8, 48.13), (np.uint16, 96.33)])
def test_psnr_of_one_step_everywhere(dtype: type, decibels: float) -> None:
    one = np.full((1, 8, 8, 3), 7, dtype)
    assert psnr(one, one + dtype(1)) == pytest.approx(decibels, abs=0.005)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000), height=st.integers(1, 12), width=st.integers(1, 12), channels=st.sampled_from([1, 3])
)
def test_bounds_and_symmetry(seed: int, height: int, width: int, channels: int) -> None:
    one, other = two((2, height, width, channels), seed=seed)
    for measure, low, high in ((l1, 0, 1), (psnr, 0, PSNR_CAP), (ssim, -1, 1 + 1e-12)):
        values = measure(one, other)
        assert values.shape == (2,)
        assert (low <= values).all()
        assert (values <= high).all()
        np.testing.assert_allclose(values, measure(other, one))


def test_images_of_different_shapes_or_types_are_refused() -> None:
    one, other = two((1, 8, 8, 3))
    for measure in (l1, psnr, ssim):
        with pytest.raises(ValueError, match="cannot compare"):
            measure(one, other[..., :1])
        with pytest.raises(ValueError, match="cannot compare"):
            measure(one, other.astype(np.uint16))
        with pytest.raises(ValueError, match="expected uint8 or uint16"):
            measure(one.astype(float), other.astype(float))
