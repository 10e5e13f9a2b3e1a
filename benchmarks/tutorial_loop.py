"""The training loop of the Keras tutorial, for comparison: `predict` for the fakes and six `train_on_batch` calls.

This is a new implementation of the published algorithm (Machine Learning Mastery 2019, *How to Develop a CycleGAN for
Image-to-Image Translation with Keras*). It uses tf_keras, Keras 2's successor: under Keras 3 the loop trains the wrong
networks. `tests/benchmarks/test_tutorial_loop.py` compares it with recorded losses of the original.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers


class InstanceNormalization(layers.Layer):
    """The layer of keras-contrib: gamma * (x - mean) / (deviation + 1e-3) + beta, per image and channel."""

    def build(self, input_shape: Any) -> None:
        self.gamma = self.add_weight("gamma", (input_shape[-1],), initializer="ones")
        self.beta = self.add_weight("beta", (input_shape[-1],), initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        mean = tf_keras.backend.mean(inputs, [1, 2], keepdims=True)
        deviation = tf_keras.backend.std(inputs, [1, 2], keepdims=True) + 1e-3
        return self.gamma * ((inputs - mean) / deviation) + self.beta


def build_generator(size: int, base_filters: int, blocks: int) -> tf_keras.Model:
    """The tutorial's generator with concatenating residual blocks, for `[N, H, W, 3]`; `base_filters` is 64 there."""

    def normed(x: Any) -> Any:
        return InstanceNormalization()(x)

    def convolved(x: Any, filters: int, kernel: int, strides: int = 1) -> Any:
        return normed(layers.Conv2D(filters, kernel, strides, padding="same", kernel_initializer=_normal())(x))

    def doubled(x: Any, filters: int) -> Any:
        return normed(layers.Conv2DTranspose(filters, 3, 2, padding="same", kernel_initializer=_normal())(x))

    def rectified(x: Any) -> Any:
        return layers.Activation("relu")(x)

    image = layers.Input((size, size, 3))
    x = rectified(convolved(image, base_filters, 7))
    x = rectified(convolved(x, 2 * base_filters, 3, 2))
    x = rectified(convolved(x, 4 * base_filters, 3, 2))
    for _ in range(blocks):
        y = convolved(rectified(convolved(x, 4 * base_filters, 3)), 4 * base_filters, 3)
        x = layers.Concatenate()([y, x])
    x = rectified(doubled(x, 2 * base_filters))
    x = rectified(doubled(x, base_filters))
    return tf_keras.Model(image, layers.Activation("tanh")(convolved(x, 3, 7)))


def build_discriminator(size: int, base_filters: int) -> tf_keras.Model:
    """The tutorial's PatchGAN, compiled with half the squared error."""
    image = layers.Input((size, size, 3))
    x: Any = image
    for number, (factor, strides) in enumerate(((1, 2), (2, 2), (4, 2), (8, 2), (8, 1))):
        x = layers.Conv2D(factor * base_filters, 4, strides, padding="same", kernel_initializer=_normal())(x)
        x = InstanceNormalization()(x) if number else x
        x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(1, 4, padding="same", kernel_initializer=_normal())(x)
    model = tf_keras.Model(image, x)
    model.compile(loss="mse", optimizer=_adam(), loss_weights=[0.5])
    return model


def build_composite(
    trained: tf_keras.Model, discriminator: tf_keras.Model, other: tf_keras.Model, size: int
) -> tf_keras.Model:
    """A generator under its four losses, with the other two networks frozen."""
    trained.trainable, discriminator.trainable, other.trainable = True, False, False
    source, target = layers.Input((size, size, 3)), layers.Input((size, size, 3))
    fake = trained(source)
    model = tf_keras.Model(
        [source, target], [discriminator(fake), trained(target), other(fake), trained(other(target))]
    )
    model.compile(loss=["mse", "mae", "mae", "mae"], loss_weights=[1, 5, 10, 10], optimizer=_adam())
    return model


class TutorialLoop:
    """The four networks, the two composite models, and one step over them.

    Args:
        size: side of the square images.
        base_filters: 64 in the tutorial.
        blocks: residual blocks; 9 in the tutorial, 6 below 256 pixels.
        pool_size: 50 in the tutorial.
    """

    def __init__(self, size: int, base_filters: int = 64, blocks: int = 6, pool_size: int = 50) -> None:
        self.g_AtoB, self.g_BtoA = (build_generator(size, base_filters, blocks) for _ in range(2))
        self.d_A, self.d_B = (build_discriminator(size, base_filters) for _ in range(2))
        self.c_AtoB = build_composite(self.g_AtoB, self.d_B, self.g_BtoA, size)
        self.c_BtoA = build_composite(self.g_BtoA, self.d_A, self.g_AtoB, size)
        self.pool_size = pool_size
        self.pools: dict[str, list[np.ndarray]] = {"A": [], "B": []}
        self.draws = np.random.default_rng(0)

    def step(self, real_A: np.ndarray, real_B: np.ndarray) -> dict[str, float]:
        """Update all four networks once on `[N, H, W, 3]` in [-1, 1]; return the losses before each update."""
        ones = np.ones((len(real_A), *self.d_A.output_shape[1:]), np.float32)
        zeros = np.zeros_like(ones)
        fake_A, fake_B = self.g_BtoA.predict(real_B, verbose=0), self.g_AtoB.predict(real_A, verbose=0)
        fake_A, fake_B = self.exchange("A", fake_A), self.exchange("B", fake_B)
        losses: dict[str, float] = {}
        losses |= _named("G_BtoA", self.c_BtoA.train_on_batch([real_B, real_A], [ones, real_A, real_B, real_A]))
        losses["D_A/real"] = self.d_A.train_on_batch(real_A, ones)
        losses["D_A/fake"] = self.d_A.train_on_batch(fake_A, zeros)
        losses |= _named("G_AtoB", self.c_AtoB.train_on_batch([real_A, real_B], [ones, real_B, real_A, real_B]))
        losses["D_B/real"] = self.d_B.train_on_batch(real_B, ones)
        losses["D_B/fake"] = self.d_B.train_on_batch(fake_B, zeros)
        return losses

    def exchange(self, domain: str, fakes: np.ndarray) -> np.ndarray:
        """Store the fakes until the pool is full; then swap half of them for earlier ones."""
        pool, exchanged = self.pools[domain], []
        for fake in fakes:
            if len(pool) < self.pool_size:
                pool.append(fake)
            elif self.draws.random() < 0.5:
                slot = self.draws.integers(self.pool_size)
                fake, pool[slot] = pool[slot], fake
            exchanged.append(fake)
        return np.asarray(exchanged)


def _named(name: str, values: list[float]) -> dict[str, float]:
    terms = ("total", "adversarial", "identity", "forward_cycle", "backward_cycle")
    return {f"{name}/{term}": value for term, value in zip(terms, values, strict=True)}


def _normal() -> tf_keras.initializers.Initializer:
    return tf_keras.initializers.RandomNormal(stddev=0.02)


def _adam() -> tf_keras.optimizers.Optimizer:
    return tf_keras.optimizers.Adam(learning_rate=2e-4, beta_1=0.5)
