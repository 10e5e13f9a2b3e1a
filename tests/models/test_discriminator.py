from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models import build_discriminator
from cyclegan.models.layers import SpectralConv2D


@pytest.mark.parametrize(
    ("options", "parameters", "size", "output"),
    [
        ({"architecture": "tutorial", "norm": "instance_contrib"}, 6_962_369, 256, 16),
        ({"architecture": "tutorial", "norm": "instance_contrib"}, 6_962_369, 128, 8),
        ({"architecture": "tutorial", "norm": "instance_contrib"}, 6_962_369, 64, 4),
        # The reference's 2.765 million, and a gamma and beta for each of 128 + 256 + 512 channels.
        ({}, 2_764_737 + 2 * 896, 256, 30),
        ({"norm": "none"}, 2_764_737, 128, 14),
        ({"architecture": "pixel", "norm": "none"}, 64 * 4 + 128 * 65 + 129, 64, 64),
    ],
)
def test_parameters_and_output(
    options: dict[str, Any], parameters: int, size: int, output: int, within: Callable[[str, float, float], None]
) -> None:
    discriminator = build_discriminator(**options)
    within("parameters of discriminators", abs(discriminator.count_params() - parameters), 0)
    assert discriminator.compute_output_shape((1, size, size, 3)) == (1, output, output, 1)


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_patch_sees_the_receptive_field_of_its_layers(layers: int, field: int) -> None:
    discriminator = build_discriminator(1, layers=layers, base_filters=1, norm="none", init="kaiming", init_gain=1.0)
    side = 512
    image = tf.Variable(np.random.default_rng(0).uniform(-1, 1, (1, side, side, 1)).astype("float32"))
    with tf.GradientTape() as tape:
        scores = discriminator(image)
        middle = scores.shape[1] // 2
        score = scores[0, middle, middle, 0]
    seen = np.flatnonzero(np.abs(tape.gradient(score, image)[0, ..., 0]).max(1))
    assert seen[-1] - seen[0] + 1 == field


def test_equals_the_tutorials_discriminator(parity: Path, weights_of: Callable[..., list[np.ndarray]]) -> None:
    discriminator = build_discriminator(architecture="tutorial", base_filters=8, norm="instance_contrib")
    with np.load(parity / "seed_loop.npz") as archive:
        for domain in "AB":
            discriminator.set_weights(weights_of(archive, f"init/d_{domain}"))
            first = archive[f"draw/ix_{domain}"][0]
            scores = discriminator(archive[f"data/{domain}"][first : first + 1])
            assert scores.shape == (1, 2, 2, 1)
            assert 0.5 * np.mean((scores - 1) ** 2) == pytest.approx(archive[f"loss/d_{domain}/real"][0], rel=1e-4)


@pytest.mark.parametrize("architecture", ["patch", "tutorial", "pixel"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_scores_are_float32_under_mixed_precision(
    architecture: str, spectral_norm: bool, images: np.ndarray, mixed_precision: None
) -> None:
    options = {"architecture": architecture, "base_filters": 4, "spectral_norm": spectral_norm, "init_gain": 0.2}
    half = build_discriminator(**options)
    keras.config.set_dtype_policy("float32")
    full = build_discriminator(**options)
    scores = half(images)
    assert scores.dtype == "float32"
    assert half.layers[1].compute_dtype == "bfloat16"
    assert 0 < np.abs(scores - full(images)).mean() < 0.1 * np.abs(full(images)).max()


def test_first_and_last_layer_are_not_normalized() -> None:
    for architecture, normed in (("patch", 3), ("tutorial", 4), ("pixel", 1)):
        names = [layer.name for layer in build_discriminator(architecture=architecture, base_filters=2).layers]
        assert [name for name in names if "norm" in name] == [f"layer{n}_norm" for n in range(2, 2 + normed)]


def test_patch_layers_and_width() -> None:
    discriminator = build_discriminator(layers=5, base_filters=4)
    assert [layer.filters for layer in discriminator.layers if hasattr(layer, "filters")] == [4, 8, 16, 32, 32, 32, 1]


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("architecture", ["patch", "tutorial", "pixel"])
def test_spectral_norm_bounds_every_convolution(architecture: str, images: np.ndarray, tmp_path: Path) -> None:
    options = {"architecture": architecture, "base_filters": 4, "norm": "none", "init_gain": 0.5, "seed": 3}
    discriminator = build_discriminator(spectral_norm=True, **options)
    convolutions = [layer for layer in discriminator.layers if isinstance(layer, keras.layers.Conv2D)]
    assert all(type(layer) is SpectralConv2D for layer in convolutions)
    before = [layer.kernel.numpy() for layer in convolutions]
    plain = [
        layer.kernel.numpy()
        for layer in build_discriminator(**options).layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert not np.array_equal(before[0], before[1][: before[0].shape[0]])
    assert [kernel.shape for kernel in before] == [kernel.shape for kernel in plain]

    step = tf.function(lambda: discriminator(images, training=True))
    for _ in range(30):
        step()
    for layer, kernel in zip(convolutions, before, strict=True):
        np.testing.assert_array_equal(layer.kernel, kernel)
        matrix = kernel.reshape(-1, layer.filters)
        estimate = np.linalg.norm(matrix @ layer.vector_u.numpy())
        assert estimate == pytest.approx(np.linalg.norm(matrix, 2), rel=0.05)

    # Doubling every kernel changes nothing but what the biases (all zero here) would.
    scores = np.asarray(discriminator(images))
    for layer in convolutions:
        layer.kernel.assign(2 * layer.kernel)
    np.testing.assert_allclose(discriminator(images), scores, rtol=1e-4, atol=1e-6)

    discriminator.save(tmp_path / "discriminator.keras")
    loaded = keras.saving.load_model(tmp_path / "discriminator.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images, training=True), discriminator(images, training=True))
    np.testing.assert_array_equal(loaded(images), discriminator(images))


def test_spectral_norm_starts_from_the_seed() -> None:
    one, same, other = (
        build_discriminator(base_filters=2, spectral_norm=True, seed=seed).get_weights() for seed in (5, 5, 6)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if a.std() > 0)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="architecture = 'image': must be one of patch, tutorial, pixel"):
        build_discriminator(architecture="image")
    with pytest.raises(ValueError, match="layers = 0: must be at least 1"):
        build_discriminator(layers=0)
    with pytest.raises(ValueError, match="norm = 'group': must be one of"):
        build_discriminator(norm="group")
