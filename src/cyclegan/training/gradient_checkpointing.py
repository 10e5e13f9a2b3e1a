"""Gradient checkpointing: less memory for more arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable

import keras
import tensorflow as tf

Network = Callable[[tf.Tensor], tf.Tensor]


def recomputing(generator: keras.Model) -> Network:
    """A generator in training that keeps of each residual block its input only and computes the rest again backwards.

    The same numbers and gradients, at the price of one more forward pass through the blocks (Chen et al. 2016,
    arXiv:1604.06174).

    Args:
        generator: made by `build_generator` with `architecture="resnet"`, without dropout, whose second draw would be
            another, and without batch normalization, whose averages would move twice.

    Returns:
        A function from `[N, H, W, C]` to the output for `training=True`.

    Raises:
        ValueError: the generator has no residual blocks, or draws or counts within them.
    """
    ends = [layer for layer in generator.layers if re.fullmatch(r"block\d+_(add|concat)", layer.name)]
    if not ends:
        raise ValueError("gradient checkpointing needs a generator with residual blocks (architecture='resnet')")
    for layer in generator.layers:
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.Dropout):
            raise ValueError(f"gradient checkpointing cannot repeat {type(layer).__name__}, layer {layer.name!r}")
    # A block's last layer joins its own result with its input, in this order.
    starts = [layer.input[1] for layer in ends]
    head = keras.Model(generator.input, starts[0])
    blocks = [keras.Model(start, end.output) for start, end in zip(starts, ends, strict=True)]
    tail = keras.Model(ends[-1].output, generator.output)

    def run(images: tf.Tensor) -> tf.Tensor:
        x = head(images, training=True)
        for block in blocks:
            x = tf.recompute_grad(lambda x, block=block: block(x, training=True))(x)
        return tail(x, training=True)

    return run
