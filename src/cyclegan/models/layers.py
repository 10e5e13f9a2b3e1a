"""The layers that CycleGAN needs and Keras does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

Shape = tuple[int | None, ...]

_register = keras.saving.register_keras_serializable(package="cyclegan")


def normalization(kind: str, name: str, gamma_initializer: Any = "ones") -> keras.layers.Layer | None:
    """Return a new normalisation layer, or None for `none`.

    Args:
        kind: `instance` (the paper's), `instance_contrib` (keras-contrib's), `batch` (momentum and epsilon as in
            the reference implementation) or `none`.
        name: name of the layer.
        gamma_initializer: start of the scale.

    Raises:
        ValueError: unknown `kind`.
    """
    match kind:
        case "instance":
            return InstanceNormalization(gamma_initializer=gamma_initializer, name=name)
        case "instance_contrib":
            return ContribInstanceNormalization(axis=-1, gamma_initializer=gamma_initializer, name=name)
        case "batch":
            return keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, gamma_initializer=gamma_initializer, name=name
            )
        case "none":
            return None
    raise ValueError(f"norm = {kind!r}: must be one of instance, instance_contrib, batch, none")


def batches_are_independent(model: keras.Model) -> bool:
    """Whether a sample's output does not depend on the rest of its batch.

    Only then may passes over different inputs be joined into one batch. False if the model contains
    BatchNormalization, whose statistics run over the batch.
    """
    return not any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in model._flatten_layers(include_self=False, recursive=True)
    )


def output_dtype() -> str:
    """Type of a network's output under the current policy: never half precision, which is too coarse for a loss."""
    return str(keras.config.dtype_policy().variable_dtype)


Inverse = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _standardized(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, axes: Sequence[int], inverse: Inverse, dtype: str
) -> tf.Tensor:
    """Return gamma * (x - mean) * r(variance) + beta, with the biased variance, of the type of `inputs`.

    The gradient is written out: what TensorFlow derives by itself sweeps over the picture about twice as often. It is
    made of differentiable operations, so that gradient penalties can go through it.

    Args:
        inputs: `(batch, ...)`.
        gamma, beta: of a shape that broadcasts against `inputs`, with batch size 1.
        axes: what mean and variance run over; never the batch.
        inverse: maps the variance to r and to its slope dr/dvariance.
        dtype: type of the statistics.
    """

    @tf.custom_gradient
    def run(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        x = tf.cast(inputs, dtype)
        # Two sweeps. One, for the means of x and x², loses all digits where the mean is large against the deviation;
        # there even the mean itself has few digits for the deviation, hence the correction.
        mean = tf.reduce_mean(x, axes, keepdims=True)
        centred = x - mean
        error = tf.reduce_mean(centred, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True) - tf.square(error)
        r, slope = inverse(variance)
        scale = gamma * r
        y = tf.cast(centred * scale + (beta - error * scale), inputs.dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            dy = tf.cast(upstream, dtype)
            # From the inputs again, which may have half the size of what was computed from them.
            centred = tf.cast(inputs, dtype) - mean
            count = tf.cast(tf.size(centred) // tf.size(mean), dtype)
            sum_dy = tf.reduce_sum(dy, axes, keepdims=True)
            sum_dy_x = tf.reduce_sum(dy * centred, axes, keepdims=True) - error * sum_dy
            dx = scale * dy + (centred * (2.0 * gamma * slope * sum_dy_x / count) - scale * sum_dy / count)
            dgamma = tf.reduce_sum(r * sum_dy_x, 0, keepdims=True)
            return tf.cast(dx, inputs.dtype), dgamma, tf.reduce_sum(sum_dy, 0, keepdims=True)

        return y, gradient

    return run(inputs, gamma, beta)


def _statistics_dtype(layer: keras.layers.Layer) -> str:
    """Half precision has too few digits for sums over an image; float64 is kept."""
    return "float64" if layer.compute_dtype == "float64" else "float32"


@_register
class InstanceNormalization(keras.layers.Layer):
    """Instance normalisation: y = gamma * (x - mean) / sqrt(variance + epsilon) + beta.

    Mean and biased variance run over all positions of one channel of one sample, in training and inference alike
    (Ulyanov et al. 2016, arXiv:1607.08022; epsilon and the affine parameters as in the original Torch CycleGAN).
    Under mixed precision the statistics are float32.

    Args:
        epsilon: added to the variance.
        gamma_initializer: start of the scale; the offset beta starts at zero.

    Input and output shape: `(batch, ..., channels)`.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import InstanceNormalization
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
        return _standardized(inputs, gamma, beta, range(1, rank - 1), inverse, _statistics_dtype(self))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }


@_register
class ContribInstanceNormalization(keras.layers.Layer):
    """keras-contrib's InstanceNormalization: y = gamma * (x - mean) / (deviation + epsilon) + beta.

    Unlike the paper's form, epsilon is added to the standard deviation and is 1e-3. keras-contrib is deprecated
    and does not run under Keras 3; this layer takes the same configuration and weights and gives the same numbers.

    Args:
        axis: the channel axis, with one gamma and beta per channel; None normalises each sample as a whole, with
            one gamma and beta. The batch axis 0 is refused.
        epsilon: added to the standard deviation.
        center, scale: whether there is a beta, a gamma.
        beta_initializer, gamma_initializer, beta_regularizer, gamma_regularizer, beta_constraint,
            gamma_constraint: as in Keras' BatchNormalization.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: `axis` is the batch axis, or is given for inputs of shape `(batch, features)`.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import ContribInstanceNormalization
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
            raise ValueError("axis = 0 is the batch axis, which instance normalisation never reduces over")
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
                raise ValueError(f"axis = {self.axis} leaves nothing to normalise in inputs of shape {input_shape}")
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
        dtype = _statistics_dtype(self)

        def inverse(variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # The root's slope is infinite at 0. XLA multiplies it by the zero that reaches it in a constant channel,
            # which gives NaN; here the root is taken of 1 instead and dropped.
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


@_register
class ReflectionPadding2D(keras.layers.Layer):
    """Pads height and width by mirroring the image at its border; the border pixels are not repeated.

    Args:
        padding: pixels added on each of the four sides; must be smaller than the sides of the image.

    Input shape: `(batch, height, width, channels)`. Output shape: height and width grow by `2 * padding`.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import ReflectionPadding2D
    >>> ReflectionPadding2D(3)(keras.ops.zeros((1, 8, 8, 2))).shape
    TensorShape([1, 14, 14, 2])
    """

    def __init__(self, padding: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # MirrorPad is as fast as slices and concatenation, has a deterministic gradient, and names the sizes in
        # its error when the image is too small.
        return tf.pad(inputs, _sides(self.padding), mode="REFLECT")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        grown = [None if side is None else side + 2 * self.padding for side in (height, width)]
        return (batch, *grown, channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


def _sides(padding: int) -> list[list[int]]:
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]]


@_register
class BlurPooling2D(keras.layers.Layer):
    """Halves height and width: blur with [1, 2, 1] / 4 each way, reflected at the border, then every second pixel.

    Removes what the smaller image cannot represent before it can turn into false detail (Zhang 2019,
    arXiv:1904.11486; the form is CUT's `Downsample` with its filter of 3).

    Input shape: `(batch, height, width, channels)`. Output shape: sides are halved, odd ones rounded up.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import BlurPooling2D
    >>> BlurPooling2D()(keras.ops.zeros((1, 8, 8, 2))).shape
    TensorShape([1, 4, 4, 2])
    """

    strides = (2, 2)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = tf.pad(inputs, _sides(1), mode="REFLECT")
        x = 0.5 * x[:, 1:-1:2] + 0.25 * (x[:, :-2:2] + x[:, 2::2])
        return 0.5 * x[:, :, 1:-1:2] + 0.25 * (x[:, :, :-2:2] + x[:, :, 2::2])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        halved = [None if side is None else (side + 1) // 2 for side in (height, width)]
        return (batch, *halved, channels)


def _doubled(x: tf.Tensor, axis: int) -> tf.Tensor:
    """Twice as many rows (axis 1) or columns (axis 2), by linear interpolation.

    The gradient is written out: that of a slice, which TensorFlow would derive, fills the whole picture with zeros, for
    each slice anew.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            shape = tf.concat([tf.shape(x)[:axis], [-1, 2], tf.shape(x)[axis + 1 :]], 0)
            even, odd = tf.unstack(tf.reshape(dy, shape), 2, axis + 1)
            # Row j went into the even row after it and the odd row before it, at the borders into those beside it.
            after = tf.concat([_rows(even, axis, 1, None), _rows(odd, axis, -1, None)], axis)
            before = tf.concat([_rows(even, axis, None, 1), _rows(odd, axis, None, -1)], axis)
            dx = 0.75 * (even + odd) + 0.25 * (after + before)
            return tf.ensure_shape(dx, x.shape)

        before = tf.concat([_rows(x, axis, None, 1), _rows(x, axis, None, -1)], axis)
        after = tf.concat([_rows(x, axis, 1, None), _rows(x, axis, -1, None)], axis)
        y = tf.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        shape = tf.concat([tf.shape(x)[:axis], [-1], tf.shape(x)[axis + 1 :]], 0)
        grown = [side if n != axis or side is None else 2 * side for n, side in enumerate(x.shape)]
        return tf.ensure_shape(tf.reshape(y, shape), grown), gradient

    return run(x)


def _rows(x: tf.Tensor, axis: int, start: int | None, stop: int | None) -> tf.Tensor:
    """A slice of an axis after the first."""
    return x[(slice(None),) * axis + (slice(start, stop),)]


@_register
class BilinearUpsampling2D(keras.layers.Layer):
    """Doubles height and width by bilinear interpolation between pixel centres, the border pixels repeated.

    The same numbers as Keras' `UpSampling2D(interpolation="bilinear")` and CUT's `Upsample` with its filter of 4,
    made of slices, whose gradient is deterministic on every device and compiles under XLA with unknown sizes.

    Input shape: `(batch, height, width, channels)`. Output shape: height and width are doubled.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import BilinearUpsampling2D
    >>> BilinearUpsampling2D()(keras.ops.zeros((1, 8, 8, 2))).shape
    TensorShape([1, 16, 16, 2])
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _doubled(_doubled(inputs, 1), 2)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        doubled = [None if side is None else 2 * side for side in (height, width)]
        return (batch, *doubled, channels)


@_register
class AddChange(keras.layers.Layer):
    """Applies a change to an image and stays in range: y = clip(image + change, -1, 1).

    A change of 0 gives back the image exactly. Beyond the range only those gradients pass that lead back into it. (The
    smoother tanh(change + atanh(image)) was tried: its slope is near 0 where the image is saturated, so saturated
    colours, of which drawings are full, hardly changed.)

    Input: `[change, image]`, both `(batch, height, width, channels)`, the image in [-1, 1]. Output: in [-1, 1].

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import AddChange
    >>> image = keras.ops.full((1, 2, 2, 3), 0.5)
    >>> bool(keras.ops.all(AddChange()([0 * image, image]) == image))
    True
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        change, image = inputs
        return _clip_to_range(change + image)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return tuple(input_shape[0])


@tf.custom_gradient
def _clip_to_range(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # Descent subtracts the gradient: a negative one leads upwards.
        leads_out = ((values > 1) & (upstream < 0)) | ((values < -1) & (upstream > 0))
        return tf.where(leads_out, tf.zeros_like(upstream), upstream)

    return tf.clip_by_value(values, -1.0, 1.0), gradient


@_register
class SpectralConv2D(keras.layers.Conv2D):
    """Conv2D whose kernel is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    The singular value is estimated by power iteration, one turn per call with `training=True`; the vector of the
    iteration is a weight of the layer, so a saved model goes on where it was. The trained kernel itself changes
    only through an optimizer. (`keras.layers.SpectralNormalization` overwrites it in every training pass: a
    generator's step would move the discriminator, and under mixed precision the float32 kernel is rounded to half
    precision each time, which swallows small updates.)

    Args:
        vector_initializer: start of the power iteration's vector.
        *args, **kwargs: as in `keras.layers.Conv2D`.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import SpectralConv2D
    >>> SpectralConv2D(4, 3)(keras.ops.zeros((1, 8, 8, 3)), training=True).shape
    TensorShape([1, 6, 6, 4])
    """

    def __init__(self, *args: Any, vector_initializer: Any = "random_normal", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.vector_initializer = keras.initializers.get(vector_initializer)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.vector_u = self.add_weight(
            (self.filters,),
            self.vector_initializer,
            trainable=False,
            autocast=False,
            # Every replica computes the same vector from the same kernel.
            aggregation="only_first_replica",
            name="vector_u",
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        matrix = tf.reshape(tf.cast(kernel, _statistics_dtype(self)), [-1, self.filters])
        vector = tf.math.l2_normalize(self.vector_u)[:, None]
        if training:
            vector = tf.math.l2_normalize(tf.stop_gradient(tf.matmul(matrix, matrix @ vector, transpose_a=True)))
            self.vector_u.assign(tf.squeeze(vector, 1))
        # With the vector held constant the norm of matrix @ vector is the singular value, gradient included.
        inverse = tf.math.rsqrt(tf.reduce_sum(tf.square(matrix @ vector)) + 1e-12)
        outputs = self.convolution_op(inputs, kernel * tf.cast(inverse, kernel.dtype))
        if self.use_bias:
            outputs += tf.convert_to_tensor(self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    # Conv2D's own pair stores the kernel and the bias only.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vector_initializer": keras.initializers.serialize(self.vector_initializer),
        }
