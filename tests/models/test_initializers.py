from __future__ import annotations

from itertools import combinations

import keras
import numpy as np
import pytest

from cyclegan.models import build_discriminator, build_generator
from cyclegan.models.initializers import SeededInitializers

KINDS = ["normal", "xavier", "kaiming", "orthogonal"]


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights if weight.name == "kernel"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_every_layer_has_its_own_numbers(build, kind: str) -> None:
    first = kernels(build(base_filters=8, init=kind, init_gain=1.0, seed=1))
    again = kernels(build(base_filters=8, init=kind, init_gain=1.0, seed=1))
    other = kernels(build(base_filters=8, init=kind, init_gain=1.0, seed=2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    everything = [kernel.ravel() for kernel in first + other]
    for one, two in combinations(everything, 2):
        length = min(one.size, two.size)
        # Shared seeds give a correlation of 1; that of independent numbers is about 1 / sqrt(length).
        assert abs(np.corrcoef(one[:length], two[:length])[0, 1]) < 6 / np.sqrt(length)


def test_scale_of_each_kind() -> None:
    shape = (3, 3, 64, 32)
    deviation = {
        "normal": 0.5,
        "xavier": 0.5 * np.sqrt(2 / (9 * 64 + 9 * 32)),
        "kaiming": 0.5 * np.sqrt(2 / (9 * 64)),
        "orthogonal": 0.5 / np.sqrt(9 * 64),
    }
    for kind in KINDS:
        values = np.asarray(SeededInitializers(kind, 0.5, seed=0)()(shape))
        assert values.std() == pytest.approx(deviation[kind], rel=0.02)
        smaller = np.asarray(SeededInitializers(kind, 0.5, seed=0)(scale=0.1)(shape))
        np.testing.assert_allclose(smaller, 0.1 * values, rtol=1e-4, atol=1e-7)
    matrix = np.asarray(SeededInitializers("orthogonal", 0.5, seed=0)()(shape)).reshape(-1, 32)
    np.testing.assert_allclose(matrix.T @ matrix, 0.25 * np.eye(32), atol=1e-5)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="init = 'uniform': must be one of normal, xavier, kaiming, orthogonal"):
        build_generator(init="uniform")
