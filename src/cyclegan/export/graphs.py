"""What an exported file computes, as a TensorFlow function."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cyclegan.models.layers import LeakyReLU
from cyclegan.models.translator import SMALLEST_SIDE, size_multiple

INPUT, OUTPUT = "image", "translation"


def image_graph(generator: keras.Model, bit_depth: int) -> Any:
    """A `tf.function` that does what `Translator.translate` does: stored images in, stored images out.

    Padding, scaling, cropping and rounding are part of it. It computes in float32, `Translator` rounds in float64:
    results differ by at most 1 where a value lies between two integers.

    Args:
        generator: maps float images [N, H, W, C] in [-1, 1] to [N, H, W, C_out] in [-1, 1].
        bit_depth: of the images, 8 (uint8) or 16 (uint16).
    """
    dtype = tf.uint8 if bit_depth == 8 else tf.uint16
    half = np.float32((2**bit_depth - 1) / 2)
    multiple = size_multiple(generator)
    # An axis whose size the generator fixes is never padded.
    open_axes = [axis for axis in (1, 2) if generator.input_shape[axis] is None]

    @tf.function(input_signature=[tf.TensorSpec([None, *generator.input_shape[1:]], dtype, name=INPUT)])
    def translate(image: tf.Tensor) -> dict[str, tf.Tensor]:
        height, width = tf.shape(image)[1], tf.shape(image)[2]
        x = tf.cast(image, tf.float32) / half - 1.0
        for axis in open_axes:
            x = _padded(x, axis, multiple)
        y = generator(x, training=False)[:, :height, :width]
        y = tf.clip_by_value(tf.round((y + 1.0) * half), 0.0, 2.0 * half)
        return {OUTPUT: tf.cast(y, dtype)}

    return translate


def float_graph(generator: keras.Model) -> Any:
    """A `tf.function` of the bare generator: float32 in [-1, 1], sides as the network takes them."""

    @tf.function(input_signature=[tf.TensorSpec([None, *generator.input_shape[1:]], tf.float32, name=INPUT)])
    def translate(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: generator(image, training=False)}

    return translate


def portable(generator: keras.Model) -> keras.Model:
    """A copy of a generator, of operations that runtimes other than TensorFlow have."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        # Ours computes the same by an operation of TensorFlow's gradients.
        kind = keras.layers.LeakyReLU if type(layer) is LeakyReLU else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(generator, clone_function=copied, recursive=True)
    copy.set_weights(generator.get_weights())
    return copy


def _padded(x: tf.Tensor, axis: int, multiple: int) -> tf.Tensor:
    """Pad one axis at its end to a multiple, as `np.pad` does with mode "reflect".

    `tf.pad` reflects once only. A gather reflects as often as a small image needs it, and all runtimes have it.
    """
    size = tf.shape(x)[axis]
    padded = (tf.maximum(size, SMALLEST_SIDE) + multiple - 1) // multiple * multiple
    period = tf.maximum(2 * (size - 1), 1)
    position = tf.math.floormod(tf.range(padded), period)
    return tf.gather(x, tf.minimum(position, period - position), axis=axis)
