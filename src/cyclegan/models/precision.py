"""Types of numbers under mixed precision."""

from __future__ import annotations

import keras


def output_dtype() -> str:
    """Type of a network's output under the current policy: never half precision, which is too coarse for a loss."""
    return str(keras.config.dtype_policy().variable_dtype)


def statistics_dtype(layer: keras.layers.Layer) -> str:
    """Half precision has too few digits for sums over an image; float64 is kept."""
    return "float64" if layer.compute_dtype == "float64" else "float32"
