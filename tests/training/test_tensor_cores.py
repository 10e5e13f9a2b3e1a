"""Convolutions with padded channels are the same convolutions."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models.layers import SpectralConv2D
from cyclegan.training.base_model import NETWORKS
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.tensor_cores import MULTIPLE, pad_channels

Make = Callable[..., CycleGAN]
ImageSet = Callable[..., np.ndarray]


def multiplied(network: keras.Model, channels: int = 3) -> bool:
    """Whether all kernels that are convolved with have multiples of 8 channels."""
    images = tf.TensorSpec((1, 16, 16, channels), tf.float32)
    graph = tf.function(lambda images: network(images, training=True)).get_concrete_function(images).graph
    kernels = [operation.inputs[1].shape for operation in graph.get_operations() if operation.type == "Conv2D"]
    assert kernels
    return all(side % MULTIPLE == 0 for kernel in kernels for side in kernel[2:])


LAYERS = {
    "from an image": lambda: keras.layers.Conv2D(16, 7, padding="valid"),
    "to an image": lambda: keras.layers.Conv2D(3, 7, padding="same", activation="tanh"),
    "halving": lambda: keras.layers.Conv2D(24, 4, 2, padding="same", use_bias=False),
    "to a score": lambda: SpectralConv2D(1, 4, padding="same"),
}


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_equal(name: str, channels: int, within: Callable[[str, float, float], None]) -> None:
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 12, 10, channels)).astype(np.float32))
    keras.utils.set_random_seed(0)
    layer = LAYERS[name]()
    network = keras.Sequential([keras.Input((None, None, channels)), layer])
    before = network.to_json()
    results = []
    for padded in (False, True):
        if padded:
            pad_channels(network)
            assert multiplied(network, channels)
        with tf.GradientTape() as tape:
            tape.watch(images)
            output = network(images, training=False)
            value = tf.reduce_sum(tf.square(output))
        results.append([output, *tape.gradient(value, [images, *(v.value for v in network.trainable_variables)])])
    assert network.to_json() == before
    for plain, other in zip(*results, strict=True):
        deviation = np.abs(plain.numpy() - other.numpy()).max() / np.abs(plain.numpy()).max()
        within("convolution with padded channels: output and gradients", deviation, 2e-6)


@pytest.mark.usefixtures("deterministic")
def test_convolutions_in_groups_stay_as_they_are() -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (1, 6, 6, 16)).astype(np.float32)
    network = keras.Sequential([keras.Input((6, 6, 16)), keras.layers.Conv2D(12, 3, groups=2)])
    before = network(images)
    pad_channels(network)
    np.testing.assert_array_equal(network(images), before)


def test_a_gpu_has_them_padded(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    model.compile()
    assert not any(multiplied(getattr(model, name)) for name in NETWORKS)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [f"the {kind}"])
    for _ in range(2):
        model.compile(jit_compile=False)
        assert all(multiplied(getattr(model, name)) for name in NETWORKS)
