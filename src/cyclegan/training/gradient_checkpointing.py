"""Gradient checkpointing, which needs less memory and more arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable

import keras
import tensorflow as tf

Network = Callable[[tf.Tensor], tf.Tensor]


def recomputing(generator: keras.Model) -> Network:
    """A generator in training mode that stores only the inputs of its residual blocks, and recomputes the rest.

    Outputs and gradients are the same; the cost is one more forward pass through the blocks (Chen et al. 2016,
    arXiv:1604.06174).

    Args:
        generator: made by `build_generator` with `architecture="resnet"`. It must have neither dropout, which would
            draw again, nor batch normalization, which would update its averages twice.

    Returns:
        A function from `[N, H, W, C]` to the output for `training=True`.

    Raises:
        ValueError: the generator has no residual blocks, or has dropout or batch normalization.
    """
    ends = [layer for layer in generator.layers if re.fullmatch(r"block\d+_(add|concat)", layer.name)]
    if not ends:
        raise ValueError("gradient checkpointing: the generator has no residual blocks; use architecture='resnet'")
    for layer in generator.layers:
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.Dropout):
            kind = type(layer).__name__
            raise ValueError(f"gradient checkpointing: cannot repeat {kind}, layer {layer.name!r}; build without it")
    # The last layer of a block takes the block's result, then its input.
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
