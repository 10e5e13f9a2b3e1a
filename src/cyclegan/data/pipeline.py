"""Batches for training, as a pure function of the seed and the step.

Nothing here has a state: step 1,000 yields the same batch whether the training came there from step 0 or was resumed at
step 999.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def training_batches(
    images_A: np.ndarray,
    images_B: np.ndarray,
    *,
    batch_size: int,
    crop_size: tuple[int, int],
    flip: bool,
    seed: int,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Endless unpaired batches from `start_step` on.

    Each domain is walked through in its own random order, a new one for every pass, so that partners change although
    the smaller domain comes round more often. Pictures are read from disk as they are needed.

    Args:
        images_A, images_B: `[N, H, W, C]` uint8 or uint16, typically memory-mapped.
        batch_size: pictures of each domain in a batch.
        crop_size: `(height, width)` of the random crop.
        flip: mirror every second picture, at random.
        seed: seed of order, crops and flips.
        start_step: first training step to yield.

    Returns:
        A dataset of pairs `(A, B)`, each `[batch_size, height, width, C]` float32 in [-1, 1].
    """
    draw_A = _domain(images_A, batch_size, crop_size, flip, seed=2 * seed)
    draw_B = _domain(images_B, batch_size, crop_size, flip, seed=2 * seed + 1)
    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    batches = steps.map(lambda step: (draw_A(step), draw_B(step)), num_parallel_calls=2, deterministic=True)
    return batches.prefetch(4)


def steps_per_epoch(larger_domain: int, batch_size: int) -> int:
    """Steps after which the larger domain has been seen once (as in the reference implementation); at least 1."""
    return max(1, larger_domain // batch_size)


def _domain(
    images: np.ndarray, batch_size: int, crop_size: tuple[int, int], flip: bool, seed: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from the training step to a batch of one domain."""
    count, load_height, load_width, channels = images.shape
    height, width = crop_size
    half_range = np.iinfo(images.dtype).max / 2.0
    dtype = tf.as_dtype(images.dtype)

    def read(indices: np.ndarray) -> np.ndarray:
        return images[indices]

    def draw(step: tf.Tensor) -> tf.Tensor:
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        indices = tf.map_fn(lambda position: _shuffled(position, count, seed), positions)
        batch = tf.numpy_function(read, [indices], dtype, stateful=False)
        batch = tf.ensure_shape(batch, (batch_size, load_height, load_width, channels))
        draws = tf.random.stateless_uniform(
            (batch_size, 3), tf.stack([tf.constant(seed, tf.int64), step]), alg="philox"
        )
        top = tf.cast(draws[:, 0] * (load_height - height + 1), tf.int32)
        left = tf.cast(draws[:, 1] * (load_width - width + 1), tf.int32)
        pictures = []
        for n, picture in enumerate(tf.unstack(batch)):
            crop = picture[top[n] : top[n] + height, left[n] : left[n] + width]
            crop = tf.ensure_shape(crop, (height, width, channels))
            pictures.append(tf.where(draws[n, 2] < 0.5, crop[:, ::-1], crop) if flip else crop)
        return tf.cast(tf.stack(pictures), tf.float32) / half_range - 1.0

    return draw


def _shuffled(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """The picture at a position of an endless walk that visits all `count` pictures in each pass."""
    key = tf.stack([tf.constant(seed, tf.int64), position // count])
    return tf.random.experimental.index_shuffle(position % count, seed=key, max_index=count - 1)
