"""Differentiable augmentation: the discriminators see every image, real or fake, at random altered.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (arXiv:2006.10738), with the transforms
and their strengths of the authors' `DiffAugment_pytorch.py`. As real and translated images are altered alike, the
generators do not learn the alterations; as gradients flow through them, the generators still learn from every image.
Every random choice is an argument, so that each function is a pure one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

Transform = Literal["color", "translation", "cutout"]

DRAWS: dict[Transform, int] = {"color": 3, "translation": 2, "cutout": 2}
"""Random numbers that a transform takes for each image."""
LARGEST_SHIFT = 1 / 8
"""Of the side, for `translation`."""
CUT_SHARE = 1 / 2
"""Of the side, for `cutout`."""


def diff_augment(images: tf.Tensor, draws: tf.Tensor, transforms: Sequence[Transform]) -> tf.Tensor:
    """Apply the transforms one after another.

    Args:
        images: `[N, H, W, C]` float in [-1, 1], H and W known.
        draws: `[N, draws_for(transforms)]` uniform in [0, 1).
        transforms: see `color`, `translation` and `cutout`.

    Returns:
        `[N, H, W, C]`; colors may leave [-1, 1].
    """
    first = 0
    for name in transforms:
        images = TRANSFORMS[name](images, draws[:, first : first + DRAWS[name]])
        first += DRAWS[name]
    return images


def draws_for(transforms: Sequence[Transform]) -> int:
    """Random numbers that these transforms take for each image."""
    return sum(DRAWS[name] for name in transforms)


def color(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Brightness, then saturation, then contrast, of each image.

    Brightness is moved by up to ±0.5; the distance to the mean of the channels is multiplied by 0…2 (saturation), that
    to the mean of the image by 0.5…1.5 (contrast). Saturation means something only for the three channels of RGB:
    with any other number it is left alone.

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
    """Shift each image by up to an eighth of its sides; what comes in is 0, the middle of the range.

    Args:
        images: `[N, H, W, C]` in [-1, 1].
        draws: `[N, 2]` in [0, 1), down and right.
    """
    for axis in (1, 2):
        most = int(images.shape[axis] * LARGEST_SHIFT + 0.5)
        images = _shifted(images, _integers(draws[:, axis - 1], 2 * most + 1) - most, axis)
    return images


def cutout(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Set a rectangle of half the sides, at a random place and perhaps partly outside, to 0.

    Args:
        images: `[N, H, W, C]` in [-1, 1].
        draws: `[N, 2]` in [0, 1), the place of the rectangle's middle.
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
    """Uniform draws in [0, 1) → integers 0…count-1."""
    return tf.minimum(tf.cast(draws * count, tf.int32), count - 1)


def _shifted(images: tf.Tensor, shift: tf.Tensor, axis: int) -> tf.Tensor:
    """Move image n by `shift[n]` pixels along axis 1 or 2, with zeros behind it."""
    side = images.shape[axis]

    # A shift's gradient is the shift back. TensorFlow's own for gather adds up in an order that varies on a GPU.
    @tf.custom_gradient
    def move(values: tf.Tensor, by: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
        source = tf.range(side)[None] - by[:, None]
        known = (source >= 0) & (source < side)
        gathered = tf.gather(values, tf.clip_by_value(source, 0, side - 1), axis=axis, batch_dims=1)
        known = known[:, :, None, None] if axis == 1 else known[:, None, :, None]
        moved = tf.where(known, gathered, tf.zeros_like(gathered))
        return moved, lambda upstream: (move(upstream, -by), None)

    return move(images, shift)
