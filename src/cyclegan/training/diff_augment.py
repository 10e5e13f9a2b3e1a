"""Differentiable augmentation: random changes of every image, real or fake, that a discriminator sees.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (arXiv:2006.10738), with the transforms
and strengths of the authors' `DiffAugment_pytorch.py`. Real images and translations are changed alike, so the
generators do not learn the changes. Gradients flow through the changes, so the generators learn from every image. All
functions are pure: random numbers are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

Transform = Literal["color", "translation", "cutout"]

# Number of random numbers for each image.
DRAWS: dict[Transform, int] = {"color": 3, "translation": 2, "cutout": 2}
# Largest shift of `translation`, as a share of the side.
LARGEST_SHIFT = 1 / 8
# Size of the rectangle of `cutout`, as a share of the side.
CUT_SHARE = 1 / 2


def diff_augment(images: tf.Tensor, draws: tf.Tensor, transforms: Sequence[Transform]) -> tf.Tensor:
    """Apply the transforms one after another.

    Args:
        images: `[N, H, W, C]` float in [-1, 1], H and W known.
        draws: `[N, draws_for(transforms)]` uniform in [0, 1).
        transforms: names of `color`, `translation` and `cutout`.

    Returns:
        `[N, H, W, C]`; colors may leave [-1, 1].
    """
    first = 0
    for name in transforms:
        images = TRANSFORMS[name](images, draws[:, first : first + DRAWS[name]])
        first += DRAWS[name]
    return images


def draws_for(transforms: Sequence[Transform]) -> int:
    """The number of random numbers that these transforms need for each image."""
    return sum(DRAWS[name] for name in transforms)


def color(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Change brightness, then saturation, then contrast of each image.

    Brightness moves by up to ±0.5. Saturation multiplies the distance to the mean of the channels by 0…2, for images of
    three channels only. Contrast multiplies the distance to the mean of the image by 0.5…1.5.

    Args:
        images: `[N, H, W, C]` in [-1, 1].
        draws: `[N, 3]` in [0, 1).
    """
    brightness, saturation, contrast = tf.unstack(tf.cast(draws, images.dtype)[:, :, None, None, None], axis=1)
    images += brightness - 0.5
    if images.shape[-1] == 3:
        gray = tf.reduce_mean(images, axis=3, keepdims=True)
        images = (images - gray) * (2.0 * saturation) + gray
    middle = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - middle) * (contrast + 0.5) + middle


def translation(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Shift each image by up to an eighth of its sides and fill with 0, the middle of the range.

    Args:
        images: `[N, H, W, C]` in [-1, 1].
        draws: `[N, 2]` in [0, 1), for the shifts down and right.
    """
    for axis in (1, 2):
        largest = int(images.shape[axis] * LARGEST_SHIFT + 0.5)
        images = _shift(images, _integers(draws[:, axis - 1], 2 * largest + 1) - largest, axis)
    return images


def cutout(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Set a rectangle of half the sides to 0, at a random position that may lie partly outside.

    Args:
        images: `[N, H, W, C]` in [-1, 1].
        draws: `[N, 2]` in [0, 1), for the center of the rectangle.
    """
    inside = []
    for axis in (1, 2):
        side = images.shape[axis]
        cut = int(side * CUT_SHARE + 0.5)
        start = _integers(draws[:, axis - 1], side + 1 - cut % 2) - cut // 2
        place = tf.range(side)[None] - start[:, None]
        inside.append((place >= 0) & (place < cut))
    rows, columns = inside
    hole = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(hole, tf.zeros_like(images), images)


TRANSFORMS: dict[Transform, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def _integers(draws: tf.Tensor, count: int) -> tf.Tensor:
    """Convert uniform draws in [0, 1) to integers in 0…count-1."""
    return tf.minimum(tf.cast(draws * count, tf.int32), count - 1)


def _shift(images: tf.Tensor, shift: tf.Tensor, axis: int) -> tf.Tensor:
    """Move image n by `shift[n]` pixels along axis 1 or 2, and fill with zeros."""
    side = images.shape[axis]

    # The gradient of a shift is the shift back. TensorFlow's gradient of gather is not deterministic on a GPU.
    @tf.custom_gradient
    def move(values: tf.Tensor, by: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
        source = tf.range(side)[None] - by[:, None]
        known = (source >= 0) & (source < side)
        gathered = tf.gather(values, tf.clip_by_value(source, 0, side - 1), axis=axis, batch_dims=1)
        known = known[:, :, None, None] if axis == 1 else known[:, None, :, None]
        moved = tf.where(known, gathered, tf.zeros_like(gathered))
        return moved, lambda upstream: (move(upstream, -by), None)

    return move(images, shift)
