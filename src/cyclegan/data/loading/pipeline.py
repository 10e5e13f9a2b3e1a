"""Batches for training, as a pure function of the seed and the step.

No batch depends on earlier ones: step 1,000 yields the same batch from step 0 and after resuming at step 999.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from cyclegan.data.loading.dataset import ImageSet, pixels_of, release_pages, sizes_of

KEPT_BYTES = 2**28
"""Bytes of one domain's mapped images that are read before their memory is released."""

RESIDENT_BYTES = 2**30
"""Largest size of both domains together for a copy on the device: 1 GiB leaves a GPU of 8 GiB most of its memory, and
holds the 2,401 training images of horse2zebra at 286×286 (0.55 GiB)."""


class Shares(NamedTuple):
    """The equal shares of each batch that come from one host: one share for each device.

    Attributes:
        first: number of the host's first share.
        here: number of its shares, which follow one another.
        total: number of shares of a batch, on all hosts.
    """

    first: int = 0
    here: int = 1
    total: int = 1


WHOLE_BATCH = Shares()
"""The single share of one device."""


def batch_source(
    images_A: ImageSet,
    images_B: ImageSet,
    *,
    batch_size: int,
    crop_size: tuple[int, int],
    flip: bool,
    seed: int,
    strategy: tf.distribute.Strategy | None = None,
) -> Callable[[int], Iterable[tuple[tf.Tensor, tf.Tensor]]]:
    """A function from a step to the batches from that step on: from the GPU if the images fit, else from disk.

    Args:
        images_A, images_B, batch_size, crop_size, flip, seed: see `training_batches`.
        strategy: gives each of its devices an equal share of every batch; None: one device.
    """
    drawn: dict[str, Any] = {"batch_size": batch_size, "crop_size": crop_size, "flip": flip, "seed": seed}
    if strategy is None or strategy.num_replicas_in_sync == 1:
        strategy = None
    if tf.config.list_physical_devices("GPU") and fit_on_device(images_A, images_B):
        return ResidentBatches(images_A, images_B, **drawn, strategy=strategy).starting_at
    if strategy is None:
        return lambda step: training_batches(images_A, images_B, **drawn, start_step=step)

    def distributed(step: int) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
        def on_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
            total = context.num_replicas_in_sync
            here = total // context.num_input_pipelines
            shares = Shares(context.input_pipeline_id * here, here, total)
            return training_batches(images_A, images_B, **drawn, start_step=step, shares=shares)

        return strategy.distribute_datasets_from_function(on_host)

    return distributed


def training_batches(
    images_A: ImageSet,
    images_B: ImageSet,
    *,
    batch_size: int,
    crop_size: tuple[int, int],
    flip: bool,
    seed: int,
    start_step: int = 0,
    shares: Shares = WHOLE_BATCH,
) -> tf.data.Dataset:
    """Endless unpaired batches from `start_step` on.

    Each domain has its own random order, which changes in every pass: pairs of images change although the smaller
    domain has more passes. Images are read from disk when needed.

    Args:
        images_A, images_B: uint8 or uint16, typically memory-mapped, each side at least that of the crop.
        batch_size: images of each domain in a batch.
        crop_size: `(height, width)` of the random crop.
        flip: mirror every second image, at random.
        seed: seed of order, crops and flips.
        start_step: first training step to yield.
        shares: the parts of each batch to yield, one after another; default: the whole batch.

    Returns:
        A dataset of pairs `(A, B)`, each `[batch_size // shares.total, height, width, C]` float32 in [-1, 1].
    """
    draw_A = _domain(images_A, _mapped(images_A, crop_size), batch_size, crop_size, flip, seed=2 * seed)
    draw_B = _domain(images_B, _mapped(images_B, crop_size), batch_size, crop_size, flip, seed=2 * seed + 1)
    first, here, total = shares

    def draw(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        step, share = (number, 0) if total == 1 else (number // here, first + number % here)
        return draw_A(step, share, total), draw_B(step, share, total)

    numbers = tf.data.Dataset.range(start_step * here, np.iinfo(np.int64).max)
    if total > 1:
        # Several hosts would otherwise ask each other before each batch whether one has no more.
        numbers = numbers.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return numbers.map(draw, num_parallel_calls=2, deterministic=True).prefetch(4 * here)


class ResidentBatches:
    """The batches of `training_batches`, bit for bit, from images on the device.

    An iterator for use in a graph: `next` draws, crops, mirrors and scales without pixels from the host. TensorFlow
    puts the images on the first GPU, if there is one, and with a strategy a copy of them on each device.

    Args:
        images_A, images_B, batch_size, crop_size, flip, seed: see `training_batches`.
        strategy: gives each of its devices an equal share of every batch; None: one device.
    """

    def __init__(
        self,
        images_A: ImageSet,
        images_B: ImageSet,
        *,
        batch_size: int,
        crop_size: tuple[int, int],
        flip: bool,
        seed: int,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self._strategy = strategy
        with nullcontext() if strategy is None else strategy.scope():
            read_A, read_B = _resident(images_A, crop_size), _resident(images_B, crop_size)
        self._draw_A = _domain(images_A, read_A, batch_size, crop_size, flip, seed=2 * seed)
        self._draw_B = _domain(images_B, read_B, batch_size, crop_size, flip, seed=2 * seed + 1)
        # Compute the order of images on the host, which is ahead of the device.
        with tf.device("CPU"):
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def starting_at(self, step: int) -> ResidentBatches:
        """These batches from training step `step` on."""
        self._step.assign(step)
        return self

    def __iter__(self) -> ResidentBatches:
        return self

    def __next__(self) -> tuple[tf.Tensor, tf.Tensor]:
        step = self._step.assign_add(1, read_value=True) - 1
        if self._strategy is None:
            return self._draw_A(step), self._draw_B(step)
        return self._strategy.run(self._draw_share, args=(step,))

    def _draw_share(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The share of a batch of the device that calls this."""
        context = tf.distribute.get_replica_context()
        share = context.replica_id_in_sync_group, context.num_replicas_in_sync
        return self._draw_A(step, *share), self._draw_B(step, *share)


def fit_on_device(images_A: ImageSet, images_B: ImageSet) -> bool:
    """Whether the images of both domains fit into the device's memory."""
    return sum(pixels_of(images).nbytes for images in (images_A, images_B)) <= RESIDENT_BYTES


def steps_per_epoch(larger_domain: int, batch_size: int) -> int:
    """Steps for one pass over the larger domain, as in the reference implementation; at least 1."""
    return max(1, larger_domain // batch_size)


Read = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""Indices `[N]`, corners `[N, 2]` (top, left) and mirror flags `[N]` → pixels as stored."""


def _domain(
    images: ImageSet, read: Read, batch_size: int, crop_size: tuple[int, int], flip: bool, seed: int
) -> Callable[..., tf.Tensor]:
    """A function from the training step to a batch of one domain, or to one of several equal shares of it."""
    count, channels = len(images), images.shape[-1]
    sizes = tf.constant(sizes_of(images), tf.float32)
    # A tensor from outside the graph. Some graphs turn a division by a constant into a product, others do not.
    half_range = tf.constant(np.iinfo(images.dtype).max / 2.0, tf.float32)

    def draw(step: tf.Tensor, share: int | tf.Tensor = 0, total: int = 1) -> tf.Tensor:
        size = batch_size // total
        with tf.device("CPU"):
            start = tf.cast(share, tf.int64) * size
            positions = step * batch_size + start + tf.range(size, dtype=tf.int64)
            indices = tf.map_fn(lambda position: _shuffled(position, count, seed), positions)
            draws = tf.random.stateless_uniform(
                (batch_size, 3), tf.stack([tf.constant(seed, tf.int64), step]), alg="philox"
            )
            # The draws of a share do not depend on the number of shares.
            draws = tf.ensure_shape(draws[start : start + size], (size, 3))
            room = tf.gather(sizes, indices) - tf.constant(crop_size, tf.float32)
            corners = tf.cast(draws[:, :2] * (room + 1.0), tf.int32)
            mirrored = draws[:, 2] < (0.5 if flip else 0.0)
        batch = tf.ensure_shape(read(indices, corners, mirrored), (size, *crop_size, channels))
        return tf.cast(batch, tf.float32) / half_range - 1.0

    return draw


def _mapped(images: ImageSet, crop_size: tuple[int, int]) -> Read:
    """Read from images on the host, typically mapped from disk."""
    height, width = crop_size
    unreleased = 0

    def crop(indices: np.ndarray, corners: np.ndarray) -> np.ndarray:
        places = zip(indices.tolist(), corners.tolist(), strict=True)
        batch = np.stack([images[n][top : top + height, left : left + width] for n, (top, left) in places])
        nonlocal unreleased
        unreleased += batch.nbytes
        if unreleased > KEPT_BYTES:
            unreleased = 0
            release_pages(images)
        return batch

    def read(indices: tf.Tensor, corners: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
        batch = tf.numpy_function(crop, [indices, corners], tf.as_dtype(images.dtype), stateful=False)
        batch = tf.ensure_shape(batch, (None, height, width, images.shape[-1]))
        return tf.where(mirrored[:, None, None, None], batch[:, :, ::-1], batch)

    return read


def _resident(images: ImageSet, crop_size: tuple[int, int]) -> Read:
    """Read from a copy of the images on the device: one row of pixels."""
    pixels = tf.Variable(pixels_of(images), trainable=False)
    release_pages(images)
    sizes = sizes_of(images)
    areas = sizes.prod(axis=1, dtype=np.int64)
    starts, widths = tf.constant(np.cumsum(areas) - areas), tf.constant(sizes[:, 1], tf.int64)
    height, width = crop_size

    def read(indices: tf.Tensor, corners: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
        corners = tf.cast(corners, tf.int64)
        rows = corners[:, 0, None] + tf.range(height, dtype=tf.int64)
        columns = tf.range(width, dtype=tf.int64)
        columns = corners[:, 1, None] + tf.where(mirrored[:, None], columns[::-1], columns)
        lines = tf.gather(starts, indices)[:, None] + rows * tf.gather(widths, indices)[:, None]
        return tf.gather(pixels, lines[:, :, None] + columns[:, None, :])

    return read


def _shuffled(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """The image at a position of an endless walk that visits all `count` images in each pass."""
    key = tf.stack([tf.constant(seed, tf.int64), position // count])
    return tf.random.experimental.index_shuffle(position % count, seed=key, max_index=count - 1)
