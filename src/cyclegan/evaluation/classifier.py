"""A small convolutional classifier, by which translated pictures are judged. It has no part in the translation."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

BATCH_SIZE = 64
SHORTER_SIDE = 64
"""Of a picture as the classifier sees it, at most; larger ones would take it much longer."""
SMALLEST_SIDE = 7
"""Of a feature map that is still halved."""
DESCRIPTION = (
    f"pictures halved until their shorter side has at most {SHORTER_SIDE} pixels; two 3×3 convolutions of 24, 48, 96, "
    f"128 filters, each with instance normalisation and ReLU, and max pooling while a side has {SMALLEST_SIDE} pixels; "
    f"a layer of 128, dropout of a quarter; Adam, 0.002 with cosine decay, batches of {BATCH_SIZE}; pictures at random "
    "shifted by up to 15 %, turned by up to 20 degrees and stretched by up to 20 % each way, with noise of standard "
    "deviation 0.15 in 0…1"
)
"""For the protocol."""


def train_classifier(images: np.ndarray, labels: np.ndarray, classes: int, steps: int, seed: int = 0) -> keras.Model:
    """Train a classifier of `DESCRIPTION` from nothing; the same arguments give the same weights.

    Args:
        images: [N, H, W, C], uint8 or uint16.
        labels: [N], 0…`classes` - 1.
        classes: number of classes.
        steps: batches to train on.
        seed: of the weights, the order and the random changes.

    Returns:
        A model from [N, H, W, C] of `images`' range to the probability of each class, [N, `classes`].
    """
    model = _build(images.shape[1:], classes, np.iinfo(images.dtype).max, seed)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=False,
    )
    pictures = tf.data.Dataset.from_tensor_slices((images, labels))
    batches = pictures.shuffle(len(images), seed=seed).repeat().batch(BATCH_SIZE).prefetch(4)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return model


def accuracy(classifier: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of pictures [N, H, W, C] that are given their label [N]."""
    return float((classifier.predict(images, batch_size=256, verbose=0).argmax(axis=1) == labels).mean())


def _build(shape: tuple[int, ...], classes: int, top: int, seed: int) -> keras.Model:
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def initializer() -> keras.Initializer:
        return keras.initializers.HeUniform(seed=next(seeds))

    image = keras.Input(shape)
    x = layers.Rescaling(2 / top, offset=-1)(image)
    while min(x.shape[1:3]) > SHORTER_SIDE:
        x = layers.AveragePooling2D(2)(x)
    x = layers.RandomTranslation(0.15, 0.15, fill_mode="nearest", seed=next(seeds))(x)
    x = layers.RandomRotation(20 / 360, fill_mode="nearest", seed=next(seeds))(x)
    x = layers.RandomZoom(0.2, 0.2, fill_mode="nearest", seed=next(seeds))(x)
    x = layers.GaussianNoise(0.3, seed=next(seeds))(x)
    filters = 24
    while min(x.shape[1:3]) >= SMALLEST_SIDE:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=initializer())(x)
            # Of each picture by itself, so that its contrast and its share of bright pixels, in which domains differ
            # more often than classes do, count little (Pan et al. 2018); batch normalisation keeps its training's.
            x = layers.ReLU()(layers.GroupNormalization(groups=-1)(x))
        x = layers.MaxPooling2D()(x)
        filters = min(2 * filters, 128)
    x = layers.Dense(128, "relu", kernel_initializer=initializer())(layers.Flatten()(x))
    x = layers.Dropout(0.25, seed=next(seeds))(x)
    return keras.Model(image, layers.Dense(classes, "softmax", kernel_initializer=initializer())(x))
