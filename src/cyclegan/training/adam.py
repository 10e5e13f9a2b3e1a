"""Adam as one operation for each weight."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="cyclegan")
class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam (Kingma and Ba 2015) in one TensorFlow operation instead of twelve.

    Formula, state and arguments are the same. Each of Keras' operations reads and writes a whole weight: on a CPU this
    took three times as long. On a GPU without XLA, one kernel runs for each weight instead of twelve.

    Raises:
        ValueError: `amsgrad`, which the operation does not support.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError("amsgrad = True: FusedAdam does not support it; use keras.optimizers.Adam")

    def _backend_update_step(
        self, grads: list[tf.Tensor], trainable_variables: list[keras.Variable], learning_rate: tf.Tensor
    ) -> None:
        # All weights share these operations: one for each weight made a sixth of a training step's graph.
        dtype = trainable_variables[0].dtype
        step = tf.cast(self.iterations.value + 1, dtype)
        # Keras casts beta from float32, in float64 too; do the same.
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        super()._backend_update_step(
            grads,
            trainable_variables,
            {
                "lr": tf.cast(learning_rate, dtype),
                "beta1_power": tf.pow(beta_1, step),
                "beta2_power": tf.pow(beta_2, step),
                "beta1": tf.constant(self.beta_1, dtype),
                "beta2": tf.constant(self.beta_2, dtype),
                "epsilon": tf.constant(self.epsilon, dtype),
            },
        )

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: dict[str, tf.Tensor]) -> None:
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            grad=tf.cast(gradient, variable.dtype),
            **learning_rate,
        )
