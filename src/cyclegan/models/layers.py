"""The layers that CycleGAN needs and Keras does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from cyclegan.models.normalization import Shape, register, statistics_dtype


@register
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


@register
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

    The gradient is written out: that of a slice, which TensorFlow would derive, fills the whole image with zeros, for
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


@register
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


@register
class AddChange(keras.layers.Layer):
    """Applies a change to an image and stays in range: y = clip(image + change, -1, 1).

    A change of 0 gives back the image exactly. Beyond the range only those gradients pass that lead back into it. (The
    smoother tanh(change + atanh(image)) was tried: its slope is near 0 where the image is saturated, so saturated
    colors, of which drawings are full, hardly changed.)

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


@register
class LeakyReLU(keras.layers.LeakyReLU):
    """Keras' `LeakyReLU` with the same values and gradients, in a form that TensorFlow's graph optimizer can handle.

    Grappler's remapper fuses a `LeakyRelu` operation into the convolution before it even where something else reads the
    convolution too: a U-Net's skip, or the gradient. It then fails and leaves the whole step as it was.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import LeakyReLU
    >>> LeakyReLU(0.25)(keras.ops.array([-4.0, 2.0])).numpy().tolist()
    [-1.0, 2.0]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _leaky_relu(inputs, self.negative_slope)


def _leaky_relu(x: tf.Tensor, slope: float) -> tf.Tensor:
    @tf.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # The operation of the gradient, applied to x itself: x where x > 0, slope * x elsewhere.
        y = tf.raw_ops.LeakyReluGrad(gradients=x, features=x, alpha=slope)
        # The output has the sign of x, and the next convolution keeps it anyway.
        return y, lambda dy: tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=slope)

    return run(x)


@register
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
        matrix = tf.reshape(tf.cast(kernel, statistics_dtype(self)), [-1, self.filters])
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
