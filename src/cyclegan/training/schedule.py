"""Schedules of the learning rate."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import tensorflow as tf

Policy = Literal["constant", "linear", "cosine", "step"]


@keras.saving.register_keras_serializable(package="cyclegan")
class DecaySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A constant learning rate that decays from a given step to the end of the training.

    With `progress` from 0 at the start of the decay to 1 at the last step, the factor is

    - `constant`: 1;
    - `linear`: `1 - progress` (the paper, §4: the second half of the training, to zero);
    - `cosine`: `(1 + cos(π progress)) / 2` (Loshchilov and Hutter 2017);
    - `step`: 1, then 0.1 at each third of the decay (the reference's `step` divides by ten every 50 epochs).

    Args:
        learning_rate: the rate before the decay.
        total_steps: number of training steps.
        decay_start: share of the training before the decay starts, in [0, 1]; `constant` ignores it.
        policy: see above.
    """

    def __init__(self, learning_rate: float, total_steps: int, decay_start: float, policy: Policy) -> None:
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.decay_start = decay_start
        self.policy = policy

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate, a float32 scalar, at a training step counted from 0."""
        start = self.decay_start * self.total_steps
        length = max(self.total_steps - start, 1.0)
        progress = tf.clip_by_value((tf.cast(step, tf.float32) - start) / length, 0.0, 1.0)
        factor = {
            "constant": lambda: tf.ones_like(progress),
            "linear": lambda: 1.0 - progress,
            "cosine": lambda: 0.5 * (1.0 + tf.cos(math.pi * progress)),
            "step": lambda: tf.pow(0.1, tf.minimum(tf.floor(3.0 * progress), 2.0)),
        }[self.policy]()
        return self.learning_rate * factor

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "decay_start": self.decay_start,
            "policy": self.policy,
        }
