"""The pool of earlier translations that a discriminator learns from."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="cyclegan")
class ImagePool(keras.layers.Layer):
    """A pool of earlier fakes, which a discriminator sees beside the newest ones (Shrivastava et al. 2017, §2.3).

    While the pool fills, each fake is stored and returned. The full pool returns each fake unchanged with probability
    ½; otherwise it returns a random earlier fake and stores the new one in its slot. A batch is processed image by
    image, as in `ImagePool.query` of the reference implementation: an image may be swapped for one of the same batch.
    The images are variables, so a checkpoint of the model contains them.

    Args:
        size: number of images in the pool (the paper: 50); 0 returns every fake unchanged.
        image_shape: `(H, W, C)` of one image.
    """

    def __init__(self, size: int, image_shape: tuple[int, int, int], **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.size = size
        self.image_shape = tuple(image_shape)
        if size > 0:
            self.images = self.add_weight(
                name="images", shape=(size, *self.image_shape), initializer="zeros", trainable=False
            )
            # TensorFlow keeps int32 variables in host memory, which XLA code on a GPU cannot access: use int64.
            self.count = self.add_weight(name="count", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.built = True

    def exchange(self, fakes: tf.Tensor, swap: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        """Return images for the discriminator in exchange for new fakes.

        Args:
            fakes: `[N, H, W, C]` with a known N, in [-1, 1].
            swap: `[N]` bool, whether to swap once the pool is full.
            slot: `[N]` integers in [0, size), the slot to swap.

        Returns:
            `[N, H, W, C]`.

        Raises:
            ValueError: the batch size is unknown when the graph is built.
        """
        if self.size == 0:
            return fakes
        if fakes.shape[0] is None:
            raise ValueError("fakes: the image pool needs a fixed batch size; use batch(…, drop_remainder=True)")
        returned = []
        images: tf.Variable = self.images.value
        for fake, wants_swap, chosen in zip(tf.unstack(fakes), tf.unstack(swap), tf.unstack(slot), strict=True):
            is_full = self.count.value >= self.size
            index = tf.where(is_full, tf.cast(chosen, tf.int64), self.count.value)
            # Use tf.gather: under XLA, images[index] would compile again for every value of the index.
            held = tf.gather(images, index)
            takes_held = is_full & wants_swap
            returned.append(tf.where(takes_held, held, fake))
            # `scatter_nd_update` is not implemented on several devices, where each writes its own copy of the pool.
            tf.raw_ops.ResourceScatterNdUpdate(
                ref=images.handle, indices=[[index]], updates=[tf.where(takes_held | ~is_full, fake, held)]
            )
            self.count.assign_add(tf.cast(~is_full, tf.int64))
        return tf.stack(returned)

    def sample(self, draws: tf.Tensor) -> tf.Tensor:
        """Return stored images, `[M, H, W, C]`, by uniform draws `[M]` in [0, 1); the pool must not be empty."""
        held = tf.cast(self.count.value, draws.dtype)
        return tf.gather(self.images.value, tf.cast(draws * held, tf.int32))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "image_shape": self.image_shape}
