"""Layers that CycleGAN needs and Keras lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from cyclegan.models.normalization import Shape, register, statistics_dtype


@register
class ReflectionPadding2D(keras.layers.Layer):
    """Pads height and width by reflection at the border, without repeating the border pixels.

    Args:
        padding: pixels added on each of the four sides; must be below the height and width of the image.

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
        # MirrorPad is as fast as slices and concatenation and has a deterministic gradient. Its error names the sizes
        # of an image that is too small.
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
    """Halves height and width: blurs with [1, 2, 1] / 4 in both directions and keeps every second pixel.

    The blur removes frequencies that would alias in the smaller image (Zhang 2019, arXiv:1904.11486). It reflects at
    the border, as CUT's `Downsample` with a filter of 3 does.

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


def _double(x: tf.Tensor, axis: int) -> tf.Tensor:
    """Double the rows (axis 1) or columns (axis 2) by linear interpolation.

    The gradient is explicit: TensorFlow's gradient of a slice fills a whole image with zeros, once for each slice.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            # Row j contributes to rows 2j - 1 to 2j + 2, at a border to its own rows. Padded rows form pairs.
            pairs = tf.pad(dy, [[int(n == axis)] * 2 for n in range(len(dy.shape))], mode="SYMMETRIC")
            sides = keras.ops.shape(pairs)
            pairs = tf.reshape(pairs, [*sides[:axis], sides[axis] // 2, 2, *sides[axis + 1 :]])
            first, second = tf.unstack(pairs, 2, axis + 1)
            even, odd = _rows(second, axis, None, -1), _rows(first, axis, 1, None)
            after, before = _rows(second, axis, 1, None), _rows(first, axis, None, -1)
            dx = 0.75 * (even + odd) + 0.25 * (after + before)
            return tf.ensure_shape(dx, x.shape)

        near, far = 0.75 * x, 0.25 * x
        far = tf.concat([_rows(far, axis, None, 1), far, _rows(far, axis, -1, None)], axis)
        y = tf.stack([near + _rows(far, axis, None, -2), near + _rows(far, axis, 2, None)], axis + 1)
        sides = keras.ops.shape(x)
        return tf.reshape(y, [*sides[:axis], 2 * sides[axis], *sides[axis + 1 :]]), gradient

    return run(x)


def _rows(x: tf.Tensor, axis: int, start: int | None, stop: int | None) -> tf.Tensor:
    """A slice of an axis after the first."""
    return x[(slice(None),) * axis + (slice(start, stop),)]


@register
class BilinearUpsampling2D(keras.layers.Layer):
    """Doubles height and width by bilinear interpolation between pixel centers; border pixels are repeated.

    Results equal Keras' `UpSampling2D(interpolation="bilinear")` and CUT's `Upsample` with a filter of 4. This layer
    uses slices: their gradient is deterministic on every device and compiles under XLA with unknown sizes.

    Input shape: `(batch, height, width, channels)`. Output shape: height and width are doubled.

    Example:

    >>> import keras
    >>> from cyclegan.models.layers import BilinearUpsampling2D
    >>> BilinearUpsampling2D()(keras.ops.zeros((1, 8, 8, 2))).shape
    TensorShape([1, 16, 16, 2])
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _double(_double(inputs, 1), 2)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        doubled = [None if side is None else 2 * side for side in (height, width)]
        return (batch, *doubled, channels)


@register
class AddChange(keras.layers.Layer):
    """Adds a change to an image and clips the sum: y = clip(image + change, -1, 1).

    A change of 0 returns exactly the image. Outside of the range only gradients that lead back into it pass. The
    smoother tanh(change + atanh(image)) has a slope near 0 at saturated colors, so these hardly changed in a test.

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
        # Descent subtracts the gradient, so a negative gradient increases the value.
        leads_out = ((values > 1) & (upstream < 0)) | ((values < -1) & (upstream > 0))
        return tf.where(leads_out, tf.zeros_like(upstream), upstream)

    return tf.clip_by_value(values, -1.0, 1.0), gradient


@register
class LeakyReLU(keras.layers.LeakyReLU):
    """Keras' `LeakyReLU` with the same values and gradients, in a form that TensorFlow's graph optimizer supports.

    Grappler's remapper fuses a `LeakyRelu` operation into the previous convolution even if another operation, such as a
    U-Net's skip connection or a gradient, reads the convolution. Grappler then fails and optimizes nothing in the step.

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
        # The gradient's operation applied to x itself gives x where x > 0, and slope * x elsewhere.
        y = tf.raw_ops.LeakyReluGrad(gradients=x, features=x, alpha=slope)
        # The output has the sign of x, and the next convolution keeps it in memory anyway.
        return y, lambda dy: tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=slope)

    return run(x)


@register
class SpectralConv2D(keras.layers.Conv2D):
    """Conv2D whose kernel is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    Power iteration estimates the singular value, with one iteration per call with `training=True`. Its vector is a
    weight of the layer, so a loaded model continues the iteration. Only an optimizer changes the kernel.
    `keras.layers.SpectralNormalization` instead overwrites the kernel in every training pass: a generator's step would
    change the discriminator, and mixed precision would round the float32 kernel and lose small updates.

    Args:
        vector_initializer: initializer of the power iteration's vector.
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
        # For a constant vector, the norm of matrix @ vector and its gradient are those of the singular value.
        inverse = tf.math.rsqrt(tf.reduce_sum(tf.square(matrix @ vector)) + 1e-12)
        outputs = self.convolution_op(inputs, kernel * tf.cast(inverse, kernel.dtype))
        if self.use_bias:
            outputs += tf.convert_to_tensor(self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    # Conv2D's own methods store only the kernel and the bias.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vector_initializer": keras.initializers.serialize(self.vector_initializer),
        }
