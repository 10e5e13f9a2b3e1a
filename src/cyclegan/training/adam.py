"""Adam as one operation for each weight."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from cyclegan.training import replicas


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
        replicas.write_locally(self.iterations, self.learning_rate)

    def _backend_update_step(
        self, grads: list[tf.Tensor], trainable_variables: list[keras.Variable], learning_rate: tf.Tensor
    ) -> None:
        scalars = self._scalars(learning_rate, trainable_variables[0].dtype)
        if replicas.count() == 1:
            super()._backend_update_step(grads, trainable_variables, scalars)
            return
        # The gradients are means over all devices already. Keras would sum them again.
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable.value, scalars)

    def _scalars(self, learning_rate: tf.Tensor, dtype: str) -> dict[str, tf.Tensor]:
        """The operation's scalars, shared by all weights: own ones for each were an eighth of a step's operations."""
        step = tf.cast(self.iterations.value + 1, dtype)
        return {
            "lr": tf.cast(learning_rate, dtype),
            # Keras casts beta from float32, in float64 too; do the same.
            "beta1_power": tf.pow(tf.cast(self.beta_1, dtype), step),
            "beta2_power": tf.pow(tf.cast(self.beta_2, dtype), step),
            "beta1": tf.constant(self.beta_1, dtype),
            "beta2": tf.constant(self.beta_2, dtype),
            "epsilon": tf.constant(self.epsilon, dtype),
        }

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: dict[str, tf.Tensor]) -> None:
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            grad=tf.cast(gradient, variable.dtype),
            **learning_rate,
        )
