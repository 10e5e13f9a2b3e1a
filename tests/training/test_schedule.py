"""Learning-rate policies."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cyclegan.training.schedule import DecaySchedule


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 1, 0.5, 0.01, 0]),
        ("cosine", [1, 1, 0.5, (1 + np.cos(0.99 * np.pi)) / 2, 0]),
        ("step", [1, 1, 0.1, 0.01, 0.01]),
    ],
)
def test_factor_along_a_training(policy: str, expected: list[float]) -> None:
    schedule = DecaySchedule(2e-4, total_steps=200, decay_start=0.5, policy=policy)  # type: ignore[arg-type]
    rates = [float(schedule(step)) for step in (0, 100, 150, 199, 200)]
    np.testing.assert_allclose(rates, 2e-4 * np.array(expected), rtol=1e-4, atol=1e-10)


def test_survives_serialisation() -> None:
    schedule = DecaySchedule(1e-3, total_steps=10, decay_start=0.2, policy="linear")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert copy.get_config() == schedule.get_config()
    assert float(copy(6)) == float(schedule(6))
