"""The image pool against the reference implementation's `ImagePool.query`, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.pool import ImagePool


def numpy_pool(fakes: np.ndarray, swap: np.ndarray, slot: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What each query returns, and what the pool holds at the end."""
    held: list[np.ndarray] = []
    returned = []
    for fake, wants_swap, chosen in zip(fakes, swap, slot, strict=True):
        if len(held) < size:
            held.append(fake)
            returned.append(fake)
        elif wants_swap:
            returned.append(held[chosen])
            held[chosen] = fake
        else:
            returned.append(fake)
    return np.array(returned), np.array(held)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_equals_the_reference_for_every_batch_size(batch: int, jit_compile: bool) -> None:
    rng = np.random.default_rng(batch)
    fakes = rng.uniform(-1, 1, (40, 2, 2, 3)).astype(np.float32)
    # Few slots, so that a batch swaps for an image stored within the same batch.
    swap, slot = rng.random(40) < 0.7, rng.integers(0, 3, 40).astype(np.int32)
    pool = ImagePool(3, (2, 2, 3))
    exchange = tf.function(pool.exchange, jit_compile=jit_compile)
    returned = [
        exchange(tf.constant(fakes[n : n + batch]), tf.constant(swap[n : n + batch]), tf.constant(slot[n : n + batch]))
        for n in range(0, 40, batch)
    ]
    expected_returned, expected_held = numpy_pool(fakes, swap, slot, 3)
    np.testing.assert_array_equal(np.concatenate(returned), expected_returned)
    np.testing.assert_array_equal(pool.images.numpy(), expected_held)
    assert int(pool.count) == 3


def test_size_zero_returns_the_fakes() -> None:
    fakes = tf.ones((2, 2, 2, 3))
    assert ImagePool(0, (2, 2, 3)).exchange(fakes, tf.constant([True, True]), tf.constant([0, 0])) is fakes


def test_unknown_batch_size_is_refused() -> None:
    pool = ImagePool(2, (2, 2, 3))

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 3))])
    def exchange(fakes: tf.Tensor) -> tf.Tensor:
        return pool.exchange(fakes, tf.constant([True]), tf.constant([0]))

    with pytest.raises(ValueError, match="drop_remainder=True"):
        exchange(tf.ones((1, 2, 2, 3)))


def test_half_of_the_queries_swap_and_all_slots_are_used(make_small_model: Callable[..., CycleGAN]) -> None:
    model = make_small_model(pool_size=5)
    choose_slots = tf.function(model.feed_A.choose_slots)
    swaps, slots = [], []
    for step in range(2000):
        model.step.assign(step)
        swap, slot = choose_slots(tf.zeros((1, 16, 16, 3)), "pool_A")
        swaps.append(bool(swap[0]))
        slots.append(int(slot[0]))
    # Four standard deviations of a binomial of 2,000 draws.
    assert abs(np.mean(swaps) - 0.5) < 4 * 0.5 / np.sqrt(2000)
    counts = np.bincount(slots, minlength=5)
    assert len(counts) == 5
    assert np.all(np.abs(counts - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8))
    assert abs(np.corrcoef(swaps[1:], swaps[:-1])[0, 1]) < 4 / np.sqrt(2000)


def test_sampled_images_are_held_ones() -> None:
    pool = ImagePool(4, (1, 1, 1))
    random_images = tf.reshape(tf.range(1.0, 4.0), (3, 1, 1, 1))
    pool.exchange(random_images, tf.constant([True] * 3), tf.constant([0] * 3))
    draws = tf.constant([0.0, 0.3, 0.34, 0.67, 0.999999])
    # The fourth slot is empty, and stays unseen.
    assert pool.sample(draws).numpy().ravel().tolist() == [1, 1, 2, 3, 3]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_discriminators_learn_from_the_pools_too(
    make_small_model: Callable[..., CycleGAN], random_images: Callable[..., np.ndarray], order: str
) -> None:
    """The first terms of a step, against scores of all real images so far and all translations so far."""
    model = make_small_model(dropout=0.0, update_order=order, pool_size=6, discriminator_batch=40)
    # A rate of nothing: networks stand still, so that every step has the same translations of the same images.
    model.compile(keras.optimizers.SGD(0.0))
    shown = {"A": random_images(3), "B": random_images(3, seed=1)}
    for n in range(3):
        model.reset_metrics()
        logs = model.train_on_batch(shown["A"][n : n + 1], shown["B"][n : n + 1], return_dict=True)
    translated = {"B": model.G_AtoB(shown["A"]), "A": model.G_BtoA(shown["B"])}
    for domain, discriminator in (("A", model.D_A), ("B", model.D_B)):
        for kind, images in (("real", shown[domain]), ("fake", translated[domain])):
            scores = discriminator(images).numpy().mean(axis=(1, 2, 3))
            # Which of them the 39 draws take is given by the step's own draws.
            model.step.assign(2)
            draws = model.feed(domain).draws.uniform((2, 39), f"more_{domain}").numpy()[0 if kind == "real" else 1]
            taken = np.append(scores[2], scores[(draws * 3).astype(int)])
            assert len(np.unique(taken)) == 3
            np.testing.assert_allclose(float(logs[f"D_{domain}/output_{kind}"]), taken.mean(), rtol=1e-5)


def test_a_discriminators_batch_needs_pools_and_more_than_the_batch(
    make_small_model: Callable[..., CycleGAN], random_images: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="set pool_size above 0"):
        make_small_model(pool_size=0, discriminator_batch=3)
    model = make_small_model(pool_size=4, discriminator_batch=2)
    model.compile()
    with pytest.raises(ValueError, match="discriminator_batch = 2: must be above the batch size, 2"):
        model.train_on_batch(random_images(2), random_images(2, seed=1))
