"""Convolutions padded to shapes that run on a GPU's tensor cores."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

# Multiple of channels. NVIDIA's tensor cores need sides that are multiples of 8 for bfloat16, and of 4 for float32.
MULTIPLE = 8


def pad_channels(network: keras.Model) -> None:
    """Run a network's convolutions with few channels, such as those from and to an image, on tensor cores.

    Channels are padded with zeros to a multiple of 8 for the operation, and removed from its result. Layers, weights
    and saved files do not change; outputs and gradients differ only in the last bits. Use it on a GPU only: on a CPU,
    oneDNN's rewriting of such a training step crashes the process.
    """
    for layer in network.layers:
        # Padding at the end would move the borders between the groups of a grouped convolution.
        if not isinstance(layer, keras.layers.Conv2D) or layer.groups > 1:
            continue
        if any(side % MULTIPLE for side in layer.kernel.shape[2:]):
            # Take the operation of the class: this network may be padded already.
            layer.convolution_op = _padded(type(layer).convolution_op.__get__(layer))


Convolution = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _padded(convolution: Convolution) -> Convolution:
    """The same convolution of inputs `[N, H, W, C]` and a kernel `[h, w, C, D]`, padded in C and D."""

    def run(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(kernel)
        padding_in, padding_out = (-side % MULTIPLE for side in kernel.shape[2:])
        inputs = tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, padding_in]])
        padded = tf.pad(kernel, [[0, 0], [0, 0], [0, padding_in], [0, padding_out]])
        return convolution(inputs, padded)[..., : kernel.shape[3]]

    return run
