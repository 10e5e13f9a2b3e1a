"""Tiny networks, quick to build and to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cyclegan.models.discriminator import build_discriminator
from cyclegan.models.generator import build_generator
from cyclegan.training.cyclegan import CycleGAN

SIZE = 16


@pytest.fixture
def make_model() -> Callable[..., CycleGAN]:
    """A CycleGAN of a few thousand weights for 16×16 images, not compiled."""

    def make(
        channels_A: int = 3, channels_B: int = 3, generator: Any = None, discriminator: Any = None, **options: Any
    ) -> CycleGAN:
        generator = {"base_filters": 4, "blocks": 1, "init_gain": 0.2} | (generator or {})
        discriminator = {"base_filters": 4, "layers": 1, "init_gain": 0.2} | (discriminator or {})
        return CycleGAN(
            build_generator(channels_A, channels_B, seed=1, name="G_AtoB", **generator),
            build_generator(channels_B, channels_A, seed=2, name="G_BtoA", **generator),
            build_discriminator(channels_A, seed=3, name="D_A", **discriminator),
            build_discriminator(channels_B, seed=4, name="D_B", **discriminator),
            image_size=(SIZE, SIZE),
            **options,
        )

    return make


@pytest.fixture
def random_images() -> Callable[..., np.ndarray]:
    """Random images `[N, 16, 16, C]` in [-1, 1]."""

    def make(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).uniform(-1, 1, (count, SIZE, SIZE, channels)).astype(np.float32)

    return make
