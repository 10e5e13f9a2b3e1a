"""The inputs of a discriminator: new images, earlier ones from its pools, and their augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras
import tensorflow as tf

from cyclegan.domains import Domain
from cyclegan.training import replicas
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
        # Images of the batch, on all devices; set by `select`.
        self._new_images = 0
        self.built = True

    def select(self, real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Choose the real images and the translations of this step, and store the new ones in the pools.

        The pool may exchange new translations for earlier ones. `batch_size` adds random images of both pools.

        Args:
            real, fake: the new images of this domain, `[N, H, W, C]` with a known N.

        Returns:
            The real images and the translations, `[M, H, W, C]` each; M is `batch_size` or N.
        """
        # Several devices hold equal pools, and each exchanges the images of all.
        all_fakes = replicas.gathered(fake)
        fake = replicas.own(self.pool.exchange(all_fakes, *self.choose_slots(all_fakes, f"pool_{self.domain}")))
        if self.pool_real is None or self.batch_size is None:
            return real, fake
        all_reals = replicas.gathered(real)
        self.pool_real.exchange(all_reals, *self.choose_slots(all_reals, f"pool_real_{self.domain}"))
        self._new_images = all_reals.shape[0]
        draws = self.draws.uniform((2, self.batch_size - self._new_images), f"more_{self.domain}")
        draws = replicas.own(draws, axis=1)
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
        purpose = f"{kind}_{self.domain}{' for G' if for_generator else ''}"
        return diff_augment(images, self._draw_for(images, (draws_for(self.transforms),), purpose), self.transforms)

    def mixing_shares(self, real: tf.Tensor) -> tf.Tensor:
        """Draw the share of each real image in the mixtures of `losses.gradient_penalty`, `[N, 1, 1, 1]` in [0, 1)."""
        return self._draw_for(real, (1, 1, 1), f"mix_{self.domain}", real.dtype)

    def _draw_for(
        self, images: tf.Tensor, shape: tuple[int, ...], purpose: str, dtype: tf.DType = tf.float32
    ) -> tf.Tensor:
        """Uniform draws of this shape for each image: on several devices, the own share of those of the whole batch."""
        if replicas.count() == 1:
            return self.draws.uniform((tf.shape(images)[0], *shape), purpose, dtype)
        draws = self.draws.uniform((images.shape[0] * replicas.count(), *shape), purpose, dtype)
        if draws.shape[0] != self.batch_size:
            return replicas.own(draws)
        # The whole batch is the new images of all devices, then those from the pools.
        new, more = draws[: self._new_images], draws[self._new_images :]
        return tf.concat([replicas.own(new), replicas.own(more)], 0)
