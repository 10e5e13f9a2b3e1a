"""The random numbers of a training step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

PURPOSES = (
    *("pool_A", "pool_B", "mix_A", "mix_B"),
    *("real_A", "real_B", "fake_A", "fake_B", "fake_A for G", "fake_B for G"),
    *("pool_real_A", "pool_real_B", "more_A", "more_B"),
)
"""What random numbers are drawn for. A new purpose goes to the end: its place is part of the numbers."""


def uniform(shape: Any, purpose: str, seed: int, step: tf.Tensor, dtype: Any = tf.float32) -> tf.Tensor:
    """Uniform draws in [0, 1) that depend on nothing but (purpose, seed, step): a resumed training repeats them.

    Args:
        shape: of the result.
        purpose: one of `PURPOSES`.
        seed: of the training, below 2^38.
        step: of the training, an int64 scalar.
        dtype: of the result, floating.
    """
    block, place = divmod(PURPOSES.index(purpose), 4)
    # No two purposes and seeds share a number, nor does the data pipeline, which has the lowest block.
    numbers = tf.stack([tf.constant(((block + 1) << 40) + 4 * seed + place, tf.int64), step])
    return tf.random.stateless_uniform(shape, numbers, dtype=dtype, alg="philox")
