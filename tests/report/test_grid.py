from __future__ import annotations

import numpy as np
import pytest

from cyclegan.models.pixels import displayable
from cyclegan.report.grid import GAP, Column, comparison_grid, sample_grid, strips

# Pixels above the images.
HEADING = 24


def flat(
    value: int, count: int = 2, size: tuple[int, int] = (64, 64), channels: int = 3, dtype: type = np.uint8
) -> np.ndarray:
    return np.full((count, *size, channels), value, dtype)


def samples(*columns: Column) -> np.ndarray:
    return sample_grid([("flat → 3D → flat", column) for column in columns])


def test_sample_grid_layout() -> None:
    grid = samples(flat(10), flat(20), flat(30), flat(40))
    side = 128
    assert grid.shape == (HEADING + 2 * side + 2 * GAP, 4 * side + 3 * GAP, 3)
    assert grid.dtype == np.uint8
    # Each heading is black text on white.
    assert all(part.min() < 50 and part.max() == 255 for part in np.array_split(grid[:HEADING], 4, axis=1))
    grid = grid[HEADING:]
    for column, value in enumerate((10, 20, 30, 40)):
        left = column * (side + GAP)
        assert (grid[:side, left : left + side] == value).all()
        assert (grid[side + 2 * GAP :, left : left + side] == value).all()
        assert (grid[:, left + side : left + side + GAP] == 255).all()
    assert (grid[side : side + 2 * GAP] == 255).all()
    assert samples(flat(10), flat(20), flat(30)).shape == (HEADING + 2 * side + 2 * GAP, 3 * side + 2 * GAP, 3)


@pytest.mark.parametrize(("side", "displayed"), [(16, 128), (28, 140), (64, 128), (100, 100), (128, 128), (300, 300)])
def test_small_images_are_enlarged_by_a_whole_number(side: int, displayed: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    grid = samples(image, image, image)[HEADING:]
    assert len(grid) == displayed
    factor = displayed // side
    np.testing.assert_array_equal(grid[::factor, :displayed:factor], image[0])


def test_display_of_every_kind_of_image() -> None:
    assert (displayable(flat(7, channels=1)) == 7).all()
    assert displayable(flat(7, channels=1)).shape == (2, 64, 64, 3)
    assert (displayable(flat(257 * 7, dtype=np.uint16)) == 7).all()

    rgba = np.array([[[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]]], np.uint8)
    np.testing.assert_array_equal(displayable(rgba)[0, 0], [[200, 100, 0], [255, 255, 255], [244, 224, 204]])

    two = np.stack([flat(10)[..., 0], flat(20)[..., 0]], axis=-1)
    assert (displayable(two) == [10, 20, 0]).all()

    assert (displayable(np.stack([flat(c)[..., 0] for c in range(5)], axis=-1)) == [0, 1, 2]).all()


def test_domains_may_differ_in_channels() -> None:
    assert samples(flat(10, channels=1), flat(20, channels=3), flat(30, channels=4)).shape[2] == 3


def test_comparison_has_headings_and_both_blocks() -> None:
    blocks = [
        [("real A", flat(10, 3)), ("A to B", flat(20, 3))],
        [("real B", flat(30, 2)), ("B to A", flat(40, 2))],
    ]
    grid = comparison_grid(blocks)
    below = grid[24:]
    assert below.shape[0] == 3 * 128 + 2 * 2 * GAP
    assert {10, 20, 30, 40} <= set(np.unique(below))
    # The shorter block ends in white.
    assert (below[-128:, -128:] == 255).all()
    # Every heading is drawn, in gray only.
    columns = [0, 128 + GAP, 2 * 128 + GAP + 12 * GAP, 3 * 128 + 2 * GAP + 12 * GAP]
    headings = [grid[:24, left : left + 128] for left in columns]
    assert all(heading.min() < 100 for heading in headings)
    assert all((heading == heading[..., :1]).all() for heading in headings)
    assert len({heading.tobytes() for heading in headings}) == 4


def test_comparison_reduces_large_images() -> None:
    grid = comparison_grid([[("wide", flat(10, 1, size=(300, 600)))]])
    assert grid.shape == (24 + 128, 256, 3)


def test_strips_are_rows_of_their_own() -> None:
    rows = strips([flat(10, 3, (300, 150)), flat(20, 3, (300, 150))])
    assert rows.shape == (3, 128, 2 * 64 + GAP, 3)


def test_images_of_their_own_sizes_lie_on_white_of_one_size() -> None:
    wide, high = np.full((20, 40, 3), 10, np.uint8), np.full((64, 16, 1), 20, np.uint8)
    grid = samples([wide, high], [wide, high], [wide, high])[HEADING:]
    factor, cell_height, cell_width = 2, 64, 40
    assert grid.shape == (factor * 2 * cell_height + 2 * GAP, factor * 3 * cell_width + 2 * GAP, 3)
    first, second = grid[: factor * cell_height, : factor * cell_width], grid[-factor * cell_height :, : factor * 40]
    assert (first[: factor * 20] == 10).all()
    assert (first[factor * 20 :] == 255).all()
    assert (second[:, : factor * 16] == 20).all()
    assert (second[:, factor * 16 :] == 255).all()
    # A large image beside a small one is reduced.
    large = np.full((600, 300, 3), 30, np.uint8)
    assert comparison_grid([[("one", [large, wide])]]).shape[1] == 128
    assert strips([[wide, high], [wide, high]]).shape == (2, 128, 2 * 80 + GAP, 3)
