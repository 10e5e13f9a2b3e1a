"""A small convolutional classifier that judges translated images. It has no part in the translation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tqdm import tqdm

from cyclegan.system.progress_bar import progress_bar

BATCH_SIZE = 64
# The largest shorter side of the classifier's input in pixels; larger images would take much longer.
SHORTER_SIDE = 64
# The shorter side above which the first convolution has stride 2, which needs a quarter of the arithmetic.
STRIDED_FROM = 32
# The smallest side of a feature map that is still halved.
SMALLEST_SIDE = 7
# The classifier as the protocol describes it.
DESCRIPTION = (
    f"images halved until their shorter side has at most {SHORTER_SIDE} pixels; two 3×3 convolutions of 24, 48, 96, "
    f"128 filters, each with instance normalization and ReLU, and max pooling while a side has {SMALLEST_SIDE} pixels; "
    f"the first convolution has stride 2 where the shorter side has more than {STRIDED_FROM} pixels; "
    f"a layer of 128, dropout of a quarter; Adam, 0.002 with cosine decay, batches of {BATCH_SIZE}; images at random "
    "shifted by up to 15 %, turned by up to 20 degrees and stretched by up to 20 % each way, with noise of standard "
    "deviation 0.15 in 0…1"
)


class Classifier:
    """The network of `DESCRIPTION`. Each training starts from the same weights; the graph is built only once.

    Args:
        shape: [H, W, C] of the images.
        dtype: uint8 or uint16.
        classes: number of classes.
        steps: batches of a training.
        seed: seed of the weights, the order and the augmentation.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, classes: int, steps: int, seed: int = 0) -> None:
        self._steps, self._seed = steps, seed
        self.model = _build(shape, classes, np.iinfo(dtype).max, seed)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))
        self.model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(), jit_compile=False)
        optimizer.build(self.model.trainable_variables)
        # They include the states of the random generators.
        self._variables = [*self.model.variables, *optimizer.variables]
        self._start = [keras.ops.convert_to_numpy(variable) for variable in self._variables]

    def train(self, images: np.ndarray, labels: np.ndarray, name: str) -> None:
        """Train from the initial weights, with a progress bar on a terminal and one line elsewhere.

        Args:
            images: [N, H, W, C].
            labels: [N], 0…`classes` - 1.
            name: label of the progress bar.
        """
        for variable, start in zip(self._variables, self._start, strict=True):
            variable.assign(start)
        pairs = tf.data.Dataset.from_tensor_slices((images, labels))
        batches = pairs.shuffle(len(images), seed=self._seed).repeat().batch(BATCH_SIZE).prefetch(4)
        with progress_bar(name, self._steps, "step") as bar:
            self.model.fit(
                batches, steps_per_epoch=self._steps, shuffle=False, verbose=0, callbacks=[_ProgressBar(bar)]
            )

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The number of the predicted class of each image [N, H, W, C]: [N]."""
        predicted: np.ndarray = self.model.predict(images, batch_size=256, verbose=0).argmax(axis=1)
        return predicted


class _ProgressBar(keras.callbacks.Callback):
    def __init__(self, bar: tqdm[Any]) -> None:
        super().__init__()
        self._bar = bar

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self._bar.update()


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
    filters, strides = 24, 2 if min(x.shape[1:3]) > STRIDED_FROM else 1
    while min(x.shape[1:3]) >= SMALLEST_SIDE:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, strides, "same", use_bias=False, kernel_initializer=initializer())(x)
            strides = 1
            # Instance normalization removes contrast and brightness, in which domains differ more often than classes
            # do (Pan et al. 2018). Batch normalization would keep the statistics of its training images.
            x = layers.ReLU()(layers.GroupNormalization(groups=-1)(x))
        x = layers.MaxPooling2D()(x)
        filters = min(2 * filters, 128)
    x = layers.Dense(128, "relu", kernel_initializer=initializer())(layers.Flatten()(x))
    x = layers.Dropout(0.25, seed=next(seeds))(x)
    return keras.Model(image, layers.Dense(classes, "softmax", kernel_initializer=initializer())(x))
