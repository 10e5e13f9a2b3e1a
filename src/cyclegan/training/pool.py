"""The pool of earlier translations that a discriminator learns from."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="cyclegan")
class ImagePool(keras.layers.Layer):
    """Show the discriminator a history of fakes rather than only the newest (Shrivastava et al. 2017, §2.3).

    While the pool fills, each fake is stored and returned. Once it is full, each fake is returned as it is with
    probability ½; otherwise a random earlier one is returned and the new one takes its place. A batch is handled
    image by image, as `ImagePool.query` of the reference implementation does, so that an image can be swapped
    for one stored a moment before. The images are variables: a checkpoint of the model contains them.

    Args:
        size: number of images held (the paper: 50); 0 returns every fake unchanged.
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
            # TensorFlow keeps int32 variables in the host's memory, where XLA's code on a GPU may not reach them.
            self.count = self.add_weight(name="count", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.built = True

    def exchange(self, fakes: tf.Tensor, swap: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        """Return images for the discriminator in exchange for new fakes.

        Args:
            fakes: `[N, H, W, C]` with a known N, in [-1, 1].
            swap: `[N]` bool, whether to swap once the pool is full.
            slot: `[N]` integers in [0, size), which image to swap.

        Returns:
            `[N, H, W, C]`.

        Raises:
            ValueError: the batch size is unknown when the graph is built.
        """
        if self.size == 0:
            return fakes
        if fakes.shape[0] is None:
            raise ValueError("the image pool needs a fixed batch size: use dataset.batch(n, drop_remainder=True)")
        returned = []
        images: tf.Variable = self.images.value
        for fake, wants_swap, chosen in zip(tf.unstack(fakes), tf.unstack(swap), tf.unstack(slot), strict=True):
            is_full = self.count.value >= self.size
            index = tf.where(is_full, tf.cast(chosen, tf.int64), self.count.value)
            # tf.gather, not images[index]: under XLA a slice with a tensor index compiles anew for every value.
            held = tf.gather(images, index)
            takes_held = is_full & wants_swap
            returned.append(tf.where(takes_held, held, fake))
            images.scatter_nd_update([[index]], [tf.where(takes_held | ~is_full, fake, held)])
            self.count.assign_add(tf.cast(~is_full, tf.int64))
        return tf.stack(returned)

    def sample(self, draws: tf.Tensor) -> tf.Tensor:
        """Return held images, `[M, H, W, C]`, chosen by draws `[M]`, uniform in [0, 1); at least one must be held."""
        held = tf.cast(self.count.value, draws.dtype)
        return tf.gather(self.images.value, tf.cast(draws * held, tf.int32))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "image_shape": self.image_shape}
