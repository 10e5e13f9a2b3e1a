"""Feature networks, which measure realism and similarity.

A feature network maps images to vectors: similar images have close vectors. Metrics of different networks, or of one
network at different sizes, must not be compared. Therefore every output names the network beside the metric.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cyclegan.models.pixels import displayable
from cyclegan.system.digests import file_digest
from cyclegan.system.errors import UserError, one_line

EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_SHA256 = "12a09625d2fb237c06a9bee05edbc874f8f57815f87fa0bc20d61ac93a072ec2"
SMALLEST_INCEPTION = 75
# Images in one call of the network; the result does not depend on it.
BATCH = 32


@dataclass(frozen=True)
class FeatureNetwork:
    """A network from images to feature vectors.

    Attributes:
        name: its name in every output, with the size of its input images.
        dimensions: D, the length of a feature vector.
        sha256: checksum of its weights.
    """

    name: str
    dimensions: int
    sha256: str
    _run: Callable[[tf.Tensor], tf.Tensor]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the features of images.

        Args:
            images: [N, H, W, C], uint8 or uint16, any channels. They are converted by `displayable` and resized to
                the network's size (bilinear, antialiased).

        Returns:
            [N, D], float64.

        Raises:
            UserError: a feature is not finite.
        """
        parts = [
            self._run(tf.constant(displayable(images[start : start + BATCH]))).numpy()
            for start in range(0, len(images), BATCH)
        ]
        features = np.concatenate(parts).astype(np.float64) if parts else np.empty((0, self.dimensions))
        if not np.isfinite(features).all():
            raise UserError(f"evaluate.features: {self.name} returns values that are not finite; use another network")
        return features


def load_features(file: Path, size: int) -> FeatureNetwork:
    """Load the network of `evaluate.features` for images of `size`×`size` pixels.

    Args:
        file: one of
            - `efficientnet-lite0.npz`, which is part of the project;
            - an `.h5` file with Keras' ImageNet weights of Inception-v3 without the classifier;
            - a `.keras` file with a model from [N, S, S, 3] float in [-1, 1] to [N, D], or to [N, h, w, D], which is
              averaged over h and w.
        size: side in pixels to which every image is resized.

    Raises:
        UserError: the file is missing, corrupt or has another format, or the network cannot take this size.
    """
    if file.suffix == ".npz":
        # The converted network expects (x - 127) / 128.
        return _network(
            EFFICIENTNET, file, size, lambda: efficientnet_lite0(file, size), scale=1 / 128, offset=-127 / 128
        )
    if file.suffix == ".h5":
        return _network("inception-v3 (Keras' ImageNet weights)", file, size, lambda: _inception(file, size))
    return _network(file.name, file, size, lambda: _own_model(file, size))


def efficientnet_lite0(weights: Path, size: int) -> keras.Model:
    """EfficientNet-Lite0 (Tan and Le 2019; tensorflow/tpu, efficientnet/lite) without its classifier.

    Args:
        weights: the committed file, which `tools/convert_efficientnet_lite0.py` wrote.
        size: side of the input in pixels.

    Returns:
        A model from [N, S, S, 3] float, (x - 127) / 128 of 8-bit values, to [N, 1280].

    Raises:
        UserError: the file is missing, or its checksum differs from `EFFICIENTNET_SHA256`.
    """
    if not weights.is_file() or file_digest(weights) != EFFICIENTNET_SHA256:
        state = "altered or incomplete" if weights.is_file() else "does not exist"
        raise UserError(f"{weights}: {state}; restore it with 'git checkout -- data/features'")
    with np.load(weights, allow_pickle=False) as saved:
        arrays = iter([(saved[f"kernel_{n:02d}"], saved[f"bias_{n:02d}"]) for n in range(len(saved.files) // 2)])
    layers: list[tuple[keras.layers.Layer, tuple[np.ndarray, np.ndarray]]] = []

    def convolution(
        x: keras.KerasTensor, stride: int = 1, depthwise: bool = False, relu: bool = True
    ) -> keras.KerasTensor:
        kernel, bias = next(arrays)
        arguments = {"strides": stride, "padding": "same"}
        if depthwise:
            layer = keras.layers.DepthwiseConv2D(kernel.shape[0], **arguments)
        else:
            layer = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[0], **arguments)
        layers.append((layer, (kernel.astype(np.float32), bias.astype(np.float32))))
        x = layer(x)
        return keras.layers.ReLU(6.0)(x) if relu else x

    image = keras.Input((size, size, 3))
    x = convolution(image, stride=2)
    # Repeats, stride and expansion of each group of inverted residual blocks; the weights give kernel size and width.
    for repeats, stride, expansion in ((1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6)):
        for n in range(repeats):
            block_input = x
            if expansion > 1:
                x = convolution(x)
            x = convolution(x, stride=stride if n == 0 else 1, depthwise=True)
            x = convolution(x, relu=False)
            if n > 0:
                x = keras.layers.Add()([x, block_input])
    x = convolution(x)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name=EFFICIENTNET)
    for layer, values in layers:
        layer.set_weights(list(values))
    return model


def _network(
    name: str,
    file: Path,
    size: int,
    load: Callable[[], keras.Model],
    scale: float = 2 / 255,
    offset: float = -1.0,
) -> FeatureNetwork:
    if name != EFFICIENTNET and not file.is_file():
        raise UserError(f"evaluate.features: {file} does not exist; use data/features/{EFFICIENTNET}.npz")
    try:
        model = load()
    except (ValueError, TypeError, KeyError, AttributeError, OSError, zipfile.BadZipFile) as error:
        reason = one_line(error)[:300]
        raise UserError(
            f"evaluate.features: {file} does not work at evaluate.features_size = {size}: {reason}"
        ) from error
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) not in (2, 4) or not isinstance(shape[-1], int):
        raise UserError(f"evaluate.features: {file} returns {shape}; use a model that returns [N, D] or [N, h, w, D]")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def run(images: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(tf.cast(images, tf.float32), (size, size), antialias=True)
        features = tf.cast(model(resized * scale + offset, training=False), tf.float32)
        return tf.reduce_mean(features, axis=(1, 2)) if len(shape) == 4 else features

    return FeatureNetwork(f"{name} at {size}×{size}", shape[-1], file_digest(file), run)


def _inception(file: Path, size: int) -> keras.Model:
    if size < SMALLEST_INCEPTION:
        raise ValueError(f"Inception-v3 needs at least {SMALLEST_INCEPTION} pixels; raise evaluate.features_size")
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    model.load_weights(file)
    return model


def _own_model(file: Path, size: int) -> keras.Model:
    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3 or set(shape[1:3]) - {None, size}:
        raise ValueError(f"the model's input shape is {shape}, not [N, {size}, {size}, 3]")
    return model
