"""Tiny networks, quick to build and to step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

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


@pytest.fixture(scope="session")
def make_small_model() -> Callable[..., CycleGAN]:
    """A CycleGAN of five convolutions for each direction, which takes a quarter of the time to compile.

    For tests of what surrounds the step: the loop, checkpoints, callbacks.
    """

    def generator(name: str, seed: int, dropout: float) -> keras.Model:
        image = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
        x = keras.layers.Dropout(dropout, seed=seed)(x)
        return keras.Model(
            image, keras.layers.Conv2D(3, 3, padding="same", activation="tanh", dtype="float32")(x), name=name
        )

    def make(dropout: float = 0.2, **options: Any) -> CycleGAN:
        discriminator = {"base_filters": 4, "layers": 1, "norm": "none", "init_gain": 0.2}
        keras.utils.set_random_seed(0)
        return CycleGAN(
            generator("G_AtoB", seed=1, dropout=dropout),
            generator("G_BtoA", seed=2, dropout=dropout),
            build_discriminator(seed=3, name="D_A", **discriminator),
            build_discriminator(seed=4, name="D_B", **discriminator),
            image_size=(SIZE, SIZE),
            **options,
        )

    return make


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Runs the operations one by one: for a few steps, it takes a seventh of the time of building a graph.

    `test_a_graph_computes_what_eager_steps_compute` holds the two together.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def random_images() -> Callable[..., np.ndarray]:
    """Random images `[N, 16, 16, C]` in [-1, 1]."""

    def make(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).uniform(-1, 1, (count, SIZE, SIZE, channels)).astype(np.float32)

    return make
