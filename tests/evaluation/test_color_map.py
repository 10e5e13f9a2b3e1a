from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.color_map import fit_color_map
from cyclegan.evaluation.metrics import psnr
from cyclegan.models.pixels import to_float, to_integer

Pack = Callable[..., PackedDataset]


def test_recovers_a_quadratic_change_of_colors(pack: Pack) -> None:
    a = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    x = to_float(a).astype(np.float64)
    b = to_integer(0.2 * x + 0.3 * x[..., ::-1] * x - 0.1 * x**2 + 0.05, 8)
    # The pairs are in reverse order, and the one that is not scored is wrong.
    dataset = pack(a, b[::-1], split="val", pairs=[(n, 5 - n, True) for n in range(5)] + [(5, 3, False)])
    fitted = fit_color_map(dataset, "val", "AtoB")
    assert fitted is not None
    assert np.abs(fitted(a).astype(int) - b).max() <= 1
    assert fit_color_map(dataset, "test", "AtoB") is None


def test_channels_may_differ(pack: Pack) -> None:
    color = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    gray = np.rint(color @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None]
    dataset = pack(color, gray, split="val", pairs=[(n, n, True) for n in range(3)])
    forward, backward = (fit_color_map(dataset, "val", direction) for direction in ("AtoB", "BtoA"))
    assert np.abs(forward(color).astype(int) - gray).max() <= 1
    assert backward(gray).shape == color.shape


def test_one_color_leaves_no_gap(pack: Pack) -> None:
    a = np.full((2, 8, 8, 3), 200, np.uint8)
    dataset = pack(a, a // 2, split="val", pairs=[(0, 0, True)])
    fitted = fit_color_map(dataset, "val", "AtoB")
    np.testing.assert_array_equal(fitted(a), a // 2)


def test_a_map_fitted_on_test_pairs_has_about_the_known_psnr(emoji: PackedDataset) -> None:
    """An independent fit gives 21.38 dB over the scored pairs; its exact pairs are unknown."""
    fitted = fit_color_map(emoji, "test", "AtoB")
    pairs = emoji.pairs("test")
    index = pairs.index_A[pairs.scored], pairs.index_B[pairs.scored]
    mapped = fitted(np.asarray(emoji.images("A", "test"))[index[0]])
    assert psnr(mapped, np.asarray(emoji.images("B", "test"))[index[1]]).mean() == pytest.approx(21.38, abs=0.1)
