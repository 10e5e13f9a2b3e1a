"""The inputs of a discriminator: new images, earlier ones from its pools, and their augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras
import tensorflow as tf

from cyclegan.domains import Domain
from cyclegan.training.diff_augment import Transform, diff_augment, draws_for
from cyclegan.training.draws import Draws
from cyclegan.training.pool import ImagePool


class DiscriminatorFeed(keras.layers.Layer):
    """The source of the images that one domain's discriminator learns from.

    It is a layer, so that Keras saves the pools with the model.

    Args:
        domain: the discriminator's domain.
        image_shape: `(H, W, C)` of the domain's training images.
        draws: the training's random numbers.
        pool_size: images held in each pool; 0 for none.
        batch_size: number of real images, and of translations, that the discriminator learns from in a step. It must be
            above the batch size of the training. None: only the images of the batch.

    Attributes:
        pool: earlier translations.
        pool_real: earlier real images, or None without `batch_size`.
        transforms: augmentation of every image that the discriminator sees; see `training.diff_augment`.
    """

    def __init__(
        self,
        domain: Domain,
        image_shape: tuple[int, int, int],
        draws: Draws,
        *,
        pool_size: int,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(trainable=False, name=f"feed_{domain}")
        self.domain = domain
        self.draws = draws
        self.batch_size = batch_size
        self.pool = ImagePool(pool_size, image_shape, name=f"pool_{domain}")
        self.pool_real: ImagePool | None = None
        if batch_size is not None:
            self.pool_real = ImagePool(pool_size, image_shape, name=f"pool_real_{domain}")
        self.transforms: Sequence[Transform] = ()
        self.built = True

    def select(self, real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Choose the real images and the translations of this step, and store the new ones in the pools.

        The pool may exchange new translations for earlier ones. `batch_size` adds random images of both pools.

        Args:
            real, fake: the new images of this domain, `[N, H, W, C]` with a known N.

        Returns:
            The real images and the translations, `[M, H, W, C]` each; M is `batch_size` or N.
        """
        fake = self.pool.exchange(fake, *self.choose_slots(fake, f"pool_{self.domain}"))
        if self.pool_real is None or self.batch_size is None:
            return real, fake
        self.pool_real.exchange(real, *self.choose_slots(real, f"pool_real_{self.domain}"))
        draws = self.draws.uniform((2, self.batch_size - real.shape[0]), f"more_{self.domain}")
        more_real, more_fake = self.pool_real.sample(draws[0]), self.pool.sample(draws[1])
        return tf.concat([real, more_real], 0), tf.concat([fake, more_fake], 0)

    def choose_slots(self, images: tf.Tensor, purpose: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Choose for each image of a batch whether to swap it, and the slot of the pool for the swap."""
        draws = self.draws.uniform((2, images.shape[0]), purpose)
        return draws[0] < 0.5, tf.cast(draws[1] * float(self.pool.size), tf.int32)

    def augment(self, images: tf.Tensor, kind: Literal["real", "fake"], for_generator: bool = False) -> tf.Tensor:
        """Apply `transforms`, with the draws of the discriminator's update or of the generator's."""
        if not self.transforms:
            return images
        shape = tf.shape(images)[0], draws_for(self.transforms)
        draws = self.draws.uniform(shape, f"{kind}_{self.domain}{' for G' if for_generator else ''}")
        return diff_augment(images, draws, self.transforms)

    def mixing_shares(self, real: tf.Tensor) -> tf.Tensor:
        """Draw the share of each real image in the mixtures of `losses.gradient_penalty`, `[N, 1, 1, 1]` in [0, 1)."""
        return self.draws.uniform((tf.shape(real)[0], 1, 1, 1), f"mix_{self.domain}", real.dtype)
