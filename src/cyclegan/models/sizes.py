"""Which image sizes a generator accepts."""

from __future__ import annotations

import math

import keras


def size_multiple(generator: keras.Model) -> int:
    """Return the number of which both sides of an input image must be multiples, in pixels.

    It is the product of the strides by which the network shrinks its input, read off its layers, so it holds for
    a model loaded from a file as well: 4 for the residual generator, `2**depth` for a U-Net.
    """
    return math.prod(
        max(layer.strides)
        for layer in generator._flatten_layers(include_self=False)
        if hasattr(layer, "strides") and not isinstance(layer, keras.layers.Conv2DTranspose)
    )
