"""Samples over time: columns for some evaluations, always with that of the kept generators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cyclegan.domains import DomainNames
from cyclegan.experiment.samples_over_time import EVALUATIONS, IMAGES, SamplesOverTime

EPOCHS = 20


def images(value: int, count: int = IMAGES + 2) -> np.ndarray:
    return np.full((count, 128, 128, 3), value, np.uint8)


@pytest.mark.parametrize("kept", [0, 7, EPOCHS - 1])
def test_columns_are_evaluations_and_the_kept_one_is_among_them(tmp_path: Path, kept: int) -> None:
    over_time = SamplesOverTime(tmp_path / "samples")
    evaluations = [{"step": 10.0 * (n + 1), "epoch": n + 1.0} for n in range(EPOCHS)]
    for n, row in enumerate(evaluations):
        over_time.save(int(row["step"]), {"AtoB": images(10 * n), "BtoA": images(10 * n + 5)})
    real = {"AtoB": images(255), "BtoA": images(255)}
    drawn = over_time.draw(evaluations, int(evaluations[kept]["step"]), real, DomainNames("flat", "3D"))
    # A heading of 24 pixels and IMAGES rows of 128, four pixels apart, for each direction.
    height = 24 + IMAGES * 132
    assert len(drawn) == 2 * (height + 4) + 2 * 4 - 8
    for top, offset in ((24 + 64, 0), (height + 4 + 24 + 64, 5)):
        values = [int(value) for value in drawn[top, 64::130, 0]]
        assert values[0] == 255
        assert (np.diff(values[1:]) > 0).all()
        assert {offset, 10 * kept + offset, 10 * (EPOCHS - 1) + offset} <= set(values)
        assert EVALUATIONS <= len(values) - 1 <= EVALUATIONS + 1


def test_evaluations_of_another_run_are_left_out(tmp_path: Path) -> None:
    over_time = SamplesOverTime(tmp_path / "samples")
    own = {"AtoB": [images(9, 1)[0, :40], images(9, 1)[0]], "BtoA": images(9, 2).astype(np.uint16) * 257}
    over_time.save(30, own)
    rows = [{"step": 10.0, "epoch": 1.0}, {"step": 30.0, "epoch": 3.0}]
    one = over_time.draw(rows, 30, own, DomainNames())
    np.testing.assert_array_equal(one, over_time.draw(rows[1:], 30, own, DomainNames()))
    over_time.save(30, own)
    np.testing.assert_array_equal(one, over_time.draw(rows, 30, own, DomainNames()))
