"""Instance normalization: the paper's and keras-contrib's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Shape = tuple[int | None, ...]

register = keras.saving.register_keras_serializable(package="cyclegan")


def normalization(kind: str, name: str, gamma_initializer: Any = "ones") -> keras.layers.Layer | None:
    """Return a new normalization layer, or None for `none`.

    Args:
        kind: `instance` (the paper's), `instance_contrib` (keras-contrib's), `batch` (momentum and epsilon as in
            the reference implementation) or `none`.
        name: name of the layer.
        gamma_initializer: initializer of the scale.

    Raises:
        ValueError: `kind` is unknown.
    """
    match kind:
        case "instance":
            return InstanceNormalization(gamma_initializer=gamma_initializer, name=name)
        case "instance_contrib":
            return ContribInstanceNormalization(axis=-1, gamma_initializer=gamma_initializer, name=name)
        case "batch":
            # On several devices, normalize the whole batch. Keras' other formula for that has other bits on one device.
            synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1
            return keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, gamma_initializer=gamma_initializer, synchronized=synchronized, name=name
            )
        case "none":
            return None
    raise ValueError(f"norm = {kind!r}: must be one of instance, instance_contrib, batch, none")


def batches_are_independent(model: keras.Model) -> bool:
    """Whether a sample's output does not depend on the rest of its batch.

    Only then may different inputs share one batch. It is False if the model contains BatchNormalization, whose
    statistics run over the batch.
    """
    return not any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in model._flatten_layers(include_self=False, recursive=True)
    )


Inverse = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _standardized(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, axes: list[int], inverse: Inverse, dtype: str
) -> tf.Tensor:
    """Return gamma * (x - mean) * r(variance) + beta, with the biased variance, in the type of `inputs`.

    The gradient is explicit: TensorFlow's own gradient reads the image about twice as often. It consists of
    differentiable operations, which gradient penalties need.

    Args:
        inputs: `(batch, ...)`.
        gamma, beta: scale and offset, with batch size 1, which broadcast against `inputs`.
        axes: axes of mean and variance, without the batch axis. A `range` would add three operations to each sum.
        inverse: maps the variance to r and to its slope dr/dvariance.
        dtype: type of the statistics.
    """

    @tf.custom_gradient
    def run(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        x = tf.cast(inputs, dtype)
        # Use two passes: the means of x and x² in one pass lose all digits if the mean is large against the deviation.
        # The mean itself then has few digits too, hence the correction by `error`.
        mean = tf.reduce_mean(x, axes, keepdims=True)
        centered = x - mean
        error = tf.reduce_mean(centered, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axes, keepdims=True) - tf.square(error)
        r, slope = inverse(variance)
        scale = gamma * r
        y = tf.cast(centered * scale + (beta - error * scale), inputs.dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            dy = tf.cast(upstream, dtype)
            # Recompute from the inputs, which take half the memory under mixed precision.
            centered = tf.cast(inputs, dtype) - mean
            count = tf.cast(tf.size(centered) // tf.size(mean), dtype)
            sum_dy = tf.reduce_sum(dy, axes, keepdims=True)
            sum_dy_x = tf.reduce_sum(dy * centered, axes, keepdims=True) - error * sum_dy
            dx = scale * dy + (centered * (2.0 * gamma * slope * sum_dy_x / count) - scale * sum_dy / count)
            dgamma = tf.reduce_sum(r * sum_dy_x, 0, keepdims=True)
            return tf.cast(dx, inputs.dtype), dgamma, tf.reduce_sum(sum_dy, 0, keepdims=True)

        return y, gradient

    return run(inputs, gamma, beta)


@register
class InstanceNormalization(keras.layers.Layer):
    """Instance normalization: y = gamma * (x - mean) / sqrt(variance + epsilon) + beta.

    Mean and biased variance run over all positions of one channel of one sample, both in training and in inference
    (Ulyanov et al. 2016, arXiv:1607.08022; epsilon and the affine parameters as in the original Torch CycleGAN).
    Under mixed precision the statistics are float32.

    Args:
        epsilon: added to the variance.
        gamma_initializer: initializer of the scale; the offset beta starts at zero.

    Input and output shape: `(batch, ..., channels)`.

    Example:

    >>> import keras
    >>> from cyclegan.models.normalization import InstanceNormalization
    >>> InstanceNormalization()(keras.random.normal((2, 8, 8, 3))).shape
    TensorShape([2, 8, 8, 3])
    """

    def __init__(self, epsilon: float = 1e-5, gamma_initializer: Any = "ones", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape, self.gamma_initializer, name="gamma", autocast=False)
        self.beta = self.add_weight(shape, "zeros", name="beta", autocast=False)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        def inverse(variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            r = tf.math.rsqrt(variance + self.epsilon)
            return r, -0.5 * r * r * r

        rank = len(inputs.shape)
        gamma, beta = (tf.reshape(weight, [1] * (rank - 1) + [-1]) for weight in (self.gamma, self.beta))
        return _standardized(inputs, gamma, beta, list(range(1, rank - 1)), inverse, statistics_dtype(self))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }


@register
class ContribInstanceNormalization(keras.layers.Layer):
    """keras-contrib's InstanceNormalization: y = gamma * (x - mean) / (deviation + epsilon) + beta.

    Unlike in the paper, epsilon is added to the standard deviation and is 1e-3. keras-contrib is deprecated and does
    not run under Keras 3. This layer takes the same configuration and weights, and returns the same numbers.

    Args:
        axis: the channel axis, with one gamma and beta per channel. None normalizes each sample over all axes, with one
            gamma and beta. The batch axis 0 is refused.
        epsilon: added to the standard deviation.
        center: whether there is a beta.
        scale: whether there is a gamma.
        beta_initializer, gamma_initializer, beta_regularizer, gamma_regularizer, beta_constraint,
            gamma_constraint: as in Keras' BatchNormalization.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: `axis` is the batch axis, or the inputs have shape `(batch, features)` and `axis` is not None.

    Example:

    >>> import keras
    >>> from cyclegan.models.normalization import ContribInstanceNormalization
    >>> ContribInstanceNormalization(axis=-1)(keras.random.normal((2, 8, 8, 3))).shape
    TensorShape([2, 8, 8, 3])
    """

    def __init__(
        self,
        axis: int | None = None,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if axis == 0:
            raise ValueError("axis = 0: is the batch axis; use the channel axis or None")
        self.axis = axis
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)

    def build(self, input_shape: Shape) -> None:
        rank = len(input_shape)
        kept: list[int] = []
        if self.axis is not None:
            if rank == 2:
                raise ValueError(
                    f"axis = {self.axis}: leaves nothing to normalize in inputs of shape {input_shape}; use None"
                )
            kept = [self.axis % rank]
        self._reduced = [axis for axis in range(1, rank) if axis not in kept]
        self._broadcast = [input_shape[axis] if axis in kept else 1 for axis in range(rank)]
        shape = tuple(input_shape[axis] for axis in kept) or (1,)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                shape,
                self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
                name="gamma",
                autocast=False,
            )
        if self.center:
            self.beta = self.add_weight(
                shape,
                self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
                name="beta",
                autocast=False,
            )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        dtype = statistics_dtype(self)

        def inverse(variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # The slope of the root is infinite at 0. In a constant channel XLA multiplies it by zero, which gives NaN.
            # Take the root of 1 there, and drop it.
            varies = variance > 0
            root = tf.sqrt(tf.where(varies, variance, 1))
            r = 1.0 / (tf.where(varies, root, 0) + self.epsilon)
            return r, tf.where(varies, -0.5 * r * r / root, 0)

        one = [1] * len(self._broadcast)
        gamma = tf.ones(one, dtype) if self.gamma is None else tf.reshape(self.gamma, self._broadcast)
        beta = tf.zeros(one, dtype) if self.beta is None else tf.reshape(self.beta, self._broadcast)
        return _standardized(inputs, gamma, beta, self._reduced, inverse, dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "beta_regularizer": keras.regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": keras.regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": keras.constraints.serialize(self.beta_constraint),
            "gamma_constraint": keras.constraints.serialize(self.gamma_constraint),
        }


def output_dtype() -> str:
    """The type of a network's output under the current policy; never half precision, which is too coarse for a loss."""
    return str(keras.config.dtype_policy().variable_dtype)


def statistics_dtype(layer: keras.layers.Layer) -> str:
    """The type of a layer's statistics; never half precision, which is too coarse for sums over an image."""
    return "float64" if layer.compute_dtype == "float64" else "float32"
