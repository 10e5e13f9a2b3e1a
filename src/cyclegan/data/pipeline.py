"""Batches for training, as a pure function of the seed and the step.

Nothing here has a state: step 1,000 yields the same batch whether the training came there from step 0 or was resumed at
step 999.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cyclegan.data.dataset import Pictures, release_pages, sizes_of

KEPT_BYTES = 2**28
"""Of one domain's mapped pictures, how much is read before its memory is given back."""


def training_batches(
    images_A: Pictures,
    images_B: Pictures,
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
        images_A, images_B: uint8 or uint16, typically memory-mapped, each side at least that of the crop.
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
    images: Pictures, batch_size: int, crop_size: tuple[int, int], flip: bool, seed: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from the training step to a batch of one domain."""
    count, channels = len(images), images.shape[-1]
    height, width = crop_size
    sizes = tf.constant(sizes_of(images), tf.float32)
    half_range = np.iinfo(images.dtype).max / 2.0
    dtype = tf.as_dtype(images.dtype)
    unreleased = 0

    def read(indices: np.ndarray, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
        places = zip(indices.tolist(), tops.tolist(), lefts.tolist(), strict=True)
        batch = np.stack([images[n][top : top + height, left : left + width] for n, top, left in places])
        nonlocal unreleased
        unreleased += batch.nbytes
        if unreleased > KEPT_BYTES:
            unreleased = 0
            release_pages(images)
        return batch

    def draw(step: tf.Tensor) -> tf.Tensor:
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        indices = tf.map_fn(lambda position: _shuffled(position, count, seed), positions)
        draws = tf.random.stateless_uniform(
            (batch_size, 3), tf.stack([tf.constant(seed, tf.int64), step]), alg="philox"
        )
        room = tf.gather(sizes, indices) - tf.constant([height, width], tf.float32)
        corner = tf.cast(draws[:, :2] * (room + 1.0), tf.int32)
        batch = tf.numpy_function(read, [indices, corner[:, 0], corner[:, 1]], dtype, stateful=False)
        batch = tf.ensure_shape(batch, (batch_size, height, width, channels))
        if flip:
            batch = tf.where(draws[:, 2, None, None, None] < 0.5, batch[:, :, ::-1], batch)
        return tf.cast(batch, tf.float32) / half_range - 1.0

    return draw


def _shuffled(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """The picture at a position of an endless walk that visits all `count` pictures in each pass."""
    key = tf.stack([tf.constant(seed, tf.int64), position // count])
    return tf.random.experimental.index_shuffle(position % count, seed=key, max_index=count - 1)
