from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """Numbers computed by the legacy Keras 2 code; see the README in that folder."""
    return PARITY


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Any, str], list[np.ndarray]]:
    """Weights below a key of a parity file, in the order of `get_weights()`."""
    order = {"kernel": 0, "bias": 1, "gamma": 2, "beta": 3}

    def read(archive: Any, prefix: str) -> list[np.ndarray]:
        keys = [key.rsplit("/", 2) for key in archive if key.startswith(f"{prefix}/")]
        return [archive["/".join(key)] for key in sorted(keys, key=lambda key: (key[1], order[key[2]]))]

    return read


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def images() -> np.ndarray:
    """Two smooth random images, 32×48×3, in [-1, 1]."""
    coarse = np.random.default_rng(7).uniform(-1, 1, (2, 8, 12, 3)).astype("float32")
    return np.asarray(keras.ops.image.resize(coarse, (32, 48)))
