"""Convolutions in a shape that a GPU's matrix units take."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

MULTIPLE = 8
"""Of channels: NVIDIA's tensor cores multiply bfloat16 matrices whose sides are multiples of 8, float32 ones of 4."""


def pad_channels(network: keras.Model) -> None:
    """Let a network's convolutions with few channels, such as those from and to an image, run on tensor cores.

    Where a number of channels is no multiple of 8, zeros make it one for the operation, and are cut off from its
    result. The layers, their weights and what is saved of them stay as they are; outputs and gradients are the same
    but for the last bits. For a GPU only: on a CPU, oneDNN's rewriting of such a training step ends the process.
    """
    for layer in network.layers:
        # In groups, channels at the end would move the borders between them.
        if not isinstance(layer, keras.layers.Conv2D) or layer.groups > 1:
            continue
        if any(side % MULTIPLE for side in layer.kernel.shape[2:]):
            # The class's own: a network may come here twice.
            layer.convolution_op = _padded(type(layer).convolution_op.__get__(layer))


Convolution = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _padded(convolution: Convolution) -> Convolution:
    """The same of inputs `[N, H, W, C]` and a kernel `[h, w, C, D]`, padded in C and D."""

    def run(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(kernel)
        more_in, more_out = (-side % MULTIPLE for side in kernel.shape[2:])
        inputs = tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, more_in]])
        padded = tf.pad(kernel, [[0, 0], [0, 0], [0, more_in], [0, more_out]])
        return convolution(inputs, padded)[..., : kernel.shape[3]]

    return run
