"""The random numbers of a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

# Purposes of random numbers. Append new ones at the end: the position determines the numbers.
PURPOSES = (
    *("pool_A", "pool_B", "mix_A", "mix_B"),
    *("real_A", "real_B", "fake_A", "fake_B", "fake_A for G", "fake_B for G"),
    *("pool_real_A", "pool_real_B", "more_A", "more_B"),
)


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers that depend only on (purpose, seed, step), so that a resumed training repeats them.

    Attributes:
        seed: seed of the training, below 2^38.
        step: the training's step counter, an int64 scalar.
    """

    seed: int
    step: keras.Variable

    def uniform(self, shape: Any, purpose: str, dtype: Any = tf.float32) -> tf.Tensor:
        """Uniform draws in [0, 1) for the current step.

        Args:
            shape: shape of the result.
            purpose: one of `PURPOSES`.
            dtype: floating type of the result.
        """
        block, place = divmod(PURPOSES.index(purpose), 4)
        # The keys of all purposes and seeds differ. The data pipeline uses the lowest block.
        numbers = tf.stack([tf.constant(((block + 1) << 40) + 4 * self.seed + place, tf.int64), self.step.value])
        return tf.random.stateless_uniform(shape, numbers, dtype=dtype, alg="philox")
