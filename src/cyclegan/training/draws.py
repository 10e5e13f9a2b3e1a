"""The random numbers of a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

# What random numbers are drawn for. A new purpose goes to the end: its place is part of the numbers.
PURPOSES = (
    *("pool_A", "pool_B", "mix_A", "mix_B"),
    *("real_A", "real_B", "fake_A", "fake_B", "fake_A for G", "fake_B for G"),
    *("pool_real_A", "pool_real_B", "more_A", "more_B"),
)


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers that depend on nothing but (purpose, seed, step): a resumed training repeats them.

    Attributes:
        seed: seed of the training, below 2^38.
        step: the training's step counter, an int64 scalar.
    """

    seed: int
    step: keras.Variable

    def uniform(self, shape: Any, purpose: str, dtype: Any = tf.float32) -> tf.Tensor:
        """Uniform draws in [0, 1) for the present step.

        Args:
            shape: of the result.
            purpose: one of `PURPOSES`.
            dtype: of the result, floating.
        """
        block, place = divmod(PURPOSES.index(purpose), 4)
        # No two purposes and seeds share a number, nor does the data pipeline, which has the lowest block.
        numbers = tf.stack([tf.constant(((block + 1) << 40) + 4 * self.seed + place, tf.int64), self.step.value])
        return tf.random.stateless_uniform(shape, numbers, dtype=dtype, alg="philox")
