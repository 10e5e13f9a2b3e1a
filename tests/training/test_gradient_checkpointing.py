"""Recomputing changes the memory, never the numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models.generator import build_generator
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.gradient_checkpointing import recomputing


@pytest.mark.parametrize("skip", ["add", "concat"])
def test_outputs_and_gradients_are_equal(skip: str) -> None:
    generator = build_generator(base_filters=4, blocks=2, skip=skip, init_gain=0.2)
    again = recomputing(generator)
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32))
    variables = [variable.value for variable in generator.trainable_variables]

    @tf.function
    def gradients(images: tf.Tensor, recompute: bool) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([images, *variables])
            fake = again(images) if recompute else generator(images, training=True)
            # Twice through, as in a cycle.
            fake = again(fake) if recompute else generator(fake, training=True)
            loss = tf.reduce_mean(tf.square(fake - 0.5))
        return [fake, *tape.gradient(loss, [images, *variables])]

    for plain, recomputed in zip(gradients(images, False), gradients(images, True), strict=True):
        assert np.abs(plain).max() > 0 or plain.shape.rank == 1
        np.testing.assert_allclose(recomputed, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("update_order", ["joint", "sequential"])
def test_a_step_is_equal(
    make_model: Callable[..., CycleGAN], random_images: Callable[..., np.ndarray], update_order: str
) -> None:
    results = []
    for gradient_checkpointing in (False, True):
        model = make_model(update_order=update_order)
        model.compile(gradient_checkpointing=gradient_checkpointing)
        step = tf.function(model.train_step)
        for seed in range(2):
            losses = step((tf.constant(random_images(1, seed=seed)), tf.constant(random_images(1, seed=seed + 5))))
        results.append(np.array([losses[name] for name in sorted(losses)]))
    np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"dropout": 0.5}, {"norm": "batch"}, {"architecture": "unet", "padding": "same", "depth": 4}]
)
def test_what_cannot_be_repeated_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="gradient checkpointing"):
        recomputing(build_generator(base_filters=4, **options))
