"""The image pool against the reference implementation's `ImagePool.query`, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable

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
    # Few slots, so that a batch swaps for a picture stored within the same batch.
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


def test_half_of_the_queries_swap_and_all_slots_are_used(make_model: Callable[..., CycleGAN]) -> None:
    model = make_model(pool_size=5)
    swaps, slots = [], []
    for step in range(2000):
        model.step.assign(step)
        swap, slot = model._pool_choices(tf.zeros((1, 16, 16, 3)), "pool_A")
        swaps.append(bool(swap[0]))
        slots.append(int(slot[0]))
    # Four standard deviations of a binomial of 2,000 draws.
    assert abs(np.mean(swaps) - 0.5) < 4 * 0.5 / np.sqrt(2000)
    counts = np.bincount(slots, minlength=5)
    assert len(counts) == 5
    assert np.all(np.abs(counts - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8))
    assert abs(np.corrcoef(swaps[1:], swaps[:-1])[0, 1]) < 4 / np.sqrt(2000)
