from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models import build_discriminator, build_generator
from cyclegan.models.layers import (
    AddChange,
    BilinearUpsampling2D,
    BlurPooling2D,
    LeakyReLU,
    ReflectionPadding2D,
    SpectralConv2D,
)
from cyclegan.models.normalization import (
    ContribInstanceNormalization,
    InstanceNormalization,
    batches_are_independent,
    normalization,
)

MODES: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": tf.function(jit_compile=True),
}
modes = pytest.mark.parametrize("mode", MODES)
Within = Callable[[str, float, float], None]

CASES = [
    "00_plain",
    "01_batch",
    "02_rgb",
    "03_defaults",
    "04_small_std",
    "05_tiny_std",
    "06_offset",
    "07_two_by_two",
    "08_one_pixel",
    "09_constant_channel",
    "10_eps_1e-5",
    "11_rank3",
    "12_rank5",
]

LAYERS = [
    InstanceNormalization(epsilon=1e-4, gamma_initializer=keras.initializers.Constant(0.5)),
    ContribInstanceNormalization(
        axis=None,
        epsilon=1e-2,
        center=False,
        gamma_regularizer=keras.regularizers.L2(0.1),
        gamma_constraint=keras.constraints.NonNeg(),
    ),
    ReflectionPadding2D(3),
    BlurPooling2D(),
    BilinearUpsampling2D(),
    AddChange(),
    SpectralConv2D(4, 3, strides=2, vector_initializer=keras.initializers.RandomNormal(seed=3)),
]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def with_gradient(layer: keras.layers.Layer, mode: str, x: Any, dy: Any) -> list[np.ndarray]:
    """Output and gradients of sum(y * dy) for the input and each trainable weight."""

    def run(x: tf.Tensor, dy: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return [y, *tape.gradient(y, [x, *layer.trainable_variables], dy)]

    return [np.asarray(value) for value in MODES[mode](run)(tf.constant(x), tf.constant(dy))]


def worst(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest error as a fraction of the largest reference value."""
    return float(np.abs(value - reference).max() / max(np.abs(reference).max(), 1e-30))


def test_all_fixture_cases_are_listed(parity: Path) -> None:
    with np.load(parity / "instance_norm.npz") as archive:
        assert [case["key"] for case in json.loads(str(archive["cases_json"]))] == CASES


@modes
@pytest.mark.parametrize("case", CASES)
def test_contrib_normalization_equals_keras_contrib(parity: Path, case: str, mode: str, within: Within) -> None:
    with np.load(parity / "instance_norm.npz") as archive:
        known = {key.split("/")[1]: archive[key] for key in archive if key.startswith(f"{case}/")}
    layer = ContribInstanceNormalization(axis=-1, epsilon=float(known["epsilon"]))
    layer.build(known["x"].shape)
    layer.set_weights([known["gamma"], known["beta"]])

    results = with_gradient(layer, mode, known["x"], known["dy"])

    for name, value in zip(("y", "dx", "dgamma", "dbeta"), results, strict=True):
        within(f"instance_contrib, 13 cases of keras-contrib, {mode}: {name}", worst(value, known[name]), 1e-5)


def test_contrib_normalization_takes_the_configuration_of_keras_contrib(parity: Path) -> None:
    with np.load(parity / "instance_norm.npz") as archive:
        config = json.loads(str(archive["config_json"]))
    layer = ContribInstanceNormalization.from_config(dict(config))
    assert set(config) <= set(layer.get_config())
    assert (layer.axis, layer.epsilon, layer.center, layer.scale) == (-1, 1e-3, True, True)


@pytest.mark.parametrize(
    ("axis", "reduced", "weights"), [(None, (1, 2, 3), (1,)), (-1, (1, 2), (5,)), (1, (2, 3), (3,)), (3, (1, 2), (5,))]
)
def test_contrib_normalization_along_each_axis(axis: int | None, reduced: tuple[int, ...], weights: tuple) -> None:
    x = draw(2, 3, 4, 5) + 1
    layer = ContribInstanceNormalization(axis=axis)
    y = np.asarray(layer(x))
    expected = (x - x.mean(reduced, keepdims=True)) / (x.std(reduced, keepdims=True) + 1e-3)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert [weight.shape for weight in layer.weights] == [weights, weights]


def test_contrib_normalization_options() -> None:
    plain = ContribInstanceNormalization(center=False, scale=False)
    plain.build((None, 4, 4, 3))
    assert plain.weights == []

    layer = ContribInstanceNormalization(
        axis=-1,
        beta_initializer="ones",
        gamma_initializer=keras.initializers.Constant(3.0),
        gamma_regularizer=keras.regularizers.L2(0.5),
        beta_constraint=keras.constraints.NonNeg(),
    )
    y = np.asarray(layer(draw(1, 16, 16, 2)))
    np.testing.assert_allclose(y.mean((1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), 3, atol=0.02)
    assert float(layer.losses[0]) == pytest.approx(0.5 * (9 + 9))
    assert isinstance(layer.beta.constraint, keras.constraints.NonNeg)

    with pytest.raises(ValueError, match="batch axis"):
        ContribInstanceNormalization(axis=0)
    with pytest.raises(ValueError, match="nothing to normalize"):
        ContribInstanceNormalization(axis=-1).build((None, 3))
    assert ContribInstanceNormalization()(draw(2, 6)).shape == (2, 6)


def plain_instance_norm(x: tf.Tensor) -> tf.Tensor:
    """The textbook formula, for float64 inputs."""
    axes = list(range(1, len(x.shape) - 1))
    centerd = x - tf.reduce_mean(x, axes, keepdims=True)
    return centerd / tf.sqrt(tf.reduce_mean(centerd**2, axes, keepdims=True) + 1e-5)


@modes
@pytest.mark.parametrize(
    ("shape", "deviation", "offset"),
    [
        ((2, 8, 9, 4), 1, 0),
        ((1, 16, 16, 3), 1, 30),
        ((1, 8, 8, 3), 1e-3, 0),
        ((2, 9, 4), 1, 5),
        ((1, 3, 4, 2, 3), 1, 5),
    ],
)
def test_instance_normalization_equals_the_formula(
    shape: tuple[int, ...], deviation: float, offset: float, mode: str, within: Within
) -> None:
    x, dy = draw(*shape) * deviation + offset, draw(*shape, seed=1)
    layer = InstanceNormalization()
    layer.build(shape)
    y, dx, dgamma, dbeta = with_gradient(layer, mode, x, dy)

    exact = tf.constant(x, "float64")
    with tf.GradientTape() as tape:
        tape.watch(exact)
        reference = plain_instance_norm(exact)
    axes = tuple(range(len(shape) - 1))
    expected = {
        "y": (y, reference.numpy()),
        "dx": (dx, tape.gradient(reference, exact, tf.constant(dy, "float64")).numpy()),
        "dgamma": (dgamma, (reference.numpy() * dy).sum(axes)),
        "dbeta": (dbeta, dy.sum(axes)),
    }
    for name, (value, known) in expected.items():
        within(f"instance against its formula in float64, {mode}: {name}", worst(value, known), 1e-5)


@modes
@pytest.mark.parametrize("norm", ["instance", "instance_contrib"])
def test_the_written_gradient_equals_the_derived_one(norm: str, mode: str) -> None:
    """Within 1e-5 of the largest value, in float32: the fast path against TensorFlow's own derivative."""

    class Plain(keras.layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.gamma = self.add_weight(input_shape[-1:], "ones")
            self.beta = self.add_weight(input_shape[-1:], "zeros")

        def call(self, x: tf.Tensor) -> tf.Tensor:
            mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
            contrib = norm == "instance_contrib"
            deviation = tf.sqrt(variance) + 1e-3 if contrib else tf.sqrt(variance + 1e-5)
            return self.gamma * (x - mean) / deviation + self.beta

    x, dy = 3 * draw(3, 9, 11, 5) + 10, draw(3, 9, 11, 5, seed=1)
    weights = [draw(5, seed=2), draw(5, seed=3)]
    results = []
    for layer in (normalization(norm, "fast"), Plain()):
        assert layer is not None
        layer.build(x.shape)
        layer.set_weights(weights)
        results.append(with_gradient(layer, mode, x, dy))
    for fast, plain in zip(*results, strict=True):
        assert worst(fast, plain) < 1e-5


@pytest.mark.parametrize("norm", ["instance", "instance_contrib"])
def test_second_derivatives_as_gradient_penalties_need_them(norm: str) -> None:
    def penalty(normalize: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(normalize(x) ** 3)
            size = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return outer.gradient(size, x)

    def plain_contrib(x: tf.Tensor) -> tf.Tensor:
        centerd = x - tf.reduce_mean(x, [1, 2], keepdims=True)
        return centerd / (tf.sqrt(tf.reduce_mean(centerd**2, [1, 2], keepdims=True)) + 1e-3)

    x = draw(1, 6, 6, 2) + 2
    layer = normalization(norm, "norm")
    assert layer is not None
    reference = penalty(plain_instance_norm if norm == "instance" else plain_contrib, tf.constant(x, "float64"))
    assert worst(penalty(layer, tf.constant(x)).numpy(), reference.numpy()) < 1e-4


@modes
@pytest.mark.parametrize("norm", ["instance", "instance_contrib"])
def test_constant_channels_give_beta_and_finite_gradients(norm: str, mode: str) -> None:
    layer = normalization(norm, "norm")
    assert layer is not None
    layer.build((1, 8, 8, 2))
    layer.beta.assign([0.5, -0.5])
    y, dx, *_ = with_gradient(layer, mode, np.full((1, 8, 8, 2), 0.3, "float32"), draw(1, 8, 8, 2))
    np.testing.assert_allclose(y, np.broadcast_to([0.5, -0.5], y.shape), atol=1e-4)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("norm", ["instance", "instance_contrib"])
def test_statistics_are_float32_under_mixed_precision(norm: str, mixed_precision: None) -> None:
    layer = normalization(norm, "norm")
    assert layer is not None
    x = tf.cast(draw(1, 64, 64, 2) + 30, "bfloat16")
    y = layer(x)
    assert y.dtype == "bfloat16"
    assert layer.gamma.dtype == "float32"
    exact = x.numpy().astype("float64")
    expected = (exact - exact.mean((1, 2), keepdims=True)) / exact.std((1, 2), keepdims=True)
    # Half a unit in the last of bfloat16's 8 digits; statistics in bfloat16 would be off by tens of per cent.
    assert worst(y.numpy().astype("float64"), expected) < 2**-8


@modes
@pytest.mark.parametrize("padding", [1, 3])
def test_reflection_padding_equals_numpy(padding: int, mode: str) -> None:
    x, layer = draw(2, 5, 7, 3), ReflectionPadding2D(padding)
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    dy = draw(2, 5 + 2 * padding, 7 + 2 * padding, 3, seed=1)
    y, dx = with_gradient(layer, mode, x, dy)
    np.testing.assert_array_equal(y, np.pad(x, sides, mode="reflect"))

    sources = np.pad(np.arange(x.size).reshape(x.shape), sides, mode="reflect")
    expected = np.zeros(x.size)
    np.add.at(expected, sources.ravel(), dy.ravel())
    np.testing.assert_allclose(dx, expected.reshape(x.shape), rtol=1e-5, atol=1e-6)


def test_reflection_padding_names_the_sizes_when_the_image_is_too_small() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"paddings must be less than the dimension size.*3"):
        ReflectionPadding2D(3)(draw(1, 3, 8, 1))


def test_blur_pooling_equals_the_filter_and_removes_a_checkerboard() -> None:
    x = draw(1, 8, 7, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = sum(taps[i, j] * padded[:, i : i + 8 : 2, j : j + 7 : 2] for i in range(3) for j in range(3))
    np.testing.assert_allclose(BlurPooling2D()(x), expected, rtol=1e-5, atol=1e-6)

    checkerboard = np.indices((8, 8)).sum(0)[None, ..., None] % 2 * 2.0 - 1
    np.testing.assert_allclose(BlurPooling2D()(checkerboard), 0, atol=1e-7)


@modes
def test_bilinear_upsampling_equals_keras(mode: str) -> None:
    x, dy = draw(2, 5, 4, 3), draw(2, 10, 8, 3, seed=1)
    results = with_gradient(BilinearUpsampling2D(), mode, x, dy)
    expected = with_gradient(keras.layers.UpSampling2D(interpolation="bilinear"), "eager", x, dy)
    for value, reference in zip(results, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-5)


@modes
def test_bilinear_upsampling_has_the_gradient_of_keras(mode: str) -> None:
    x, dy = draw(2, 3, 5, 4), draw(2, 6, 10, 4, seed=1)
    _, dx = with_gradient(BilinearUpsampling2D(), mode, x, dy)
    _, expected = with_gradient(keras.layers.UpSampling2D(2, interpolation="bilinear"), "eager", x, dy)
    np.testing.assert_allclose(dx, expected, atol=1e-6)


def test_bilinear_upsampling_has_a_second_derivative() -> None:
    x = tf.constant(draw(1, 3, 4, 2))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(tf.square(BilinearUpsampling2D()(x)))
        penalty = tf.reduce_sum(tf.square(inner.gradient(y, x)))
    # The upsampling U is linear: the penalty is the square of 2 UᵀU x, so that its gradient is 8 (UᵀU)² x.
    matrix = np.reshape([BilinearUpsampling2D()(unit) for unit in np.eye(24).reshape(24, 1, 3, 4, 2)], (24, -1))
    square = matrix @ matrix.T
    expected = 8 * square @ square @ x.numpy().ravel()
    np.testing.assert_allclose(outer.gradient(penalty, x).numpy().ravel(), expected, rtol=1e-4)


@pytest.mark.usefixtures("deterministic")
@modes
def test_leaky_relu_is_that_of_keras(mode: str) -> None:
    """Values, gradients and gradients of those, to the last bit."""
    tiny = np.finfo(np.float32).smallest_subnormal
    special = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, np.nan], np.float32)
    x = tf.constant(np.concatenate([special, np.random.default_rng(0).normal(size=50).astype(np.float32)]))

    def derivatives(layer: keras.layers.Layer) -> list[tf.Tensor]:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = layer(x)
                objective = tf.reduce_sum(tf.sin(y))
            first = inner.gradient(objective, x)
            penalty = tf.reduce_sum(tf.square(first))
        return [y, first, outer.gradient(penalty, x)]

    own, of_keras = (MODES[mode](derivatives)(layer(0.2)) for layer in (LeakyReLU, keras.layers.LeakyReLU))
    for got, expected in zip(own, of_keras, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("deterministic")
def test_files_with_the_leaky_relu_of_keras_load(images: np.ndarray, tmp_path: Path) -> None:
    """Earlier versions wrote them."""
    discriminator = build_discriminator(base_filters=4, layers=1, seed=3)
    old = keras.models.clone_model(
        discriminator,
        clone_function=lambda layer: (
            keras.layers.LeakyReLU.from_config(layer.get_config())
            if isinstance(layer, LeakyReLU)
            else type(layer).from_config(layer.get_config())
        ),
    )
    old.set_weights(discriminator.get_weights())
    old.save(tmp_path / "old.keras")
    loaded = keras.saving.load_model(tmp_path / "old.keras", safe_mode=True)
    assert not any(isinstance(layer, LeakyReLU) for layer in loaded.layers)
    np.testing.assert_array_equal(loaded(images), discriminator(images))


def test_change_keeps_the_image_and_stays_in_range() -> None:
    image = np.linspace(-1, 1, 2 * 4 * 4 * 3, dtype="float32").reshape(2, 4, 4, 3)
    np.testing.assert_array_equal(AddChange()([0 * image, image]), image)
    change = np.where(np.arange(image.size).reshape(image.shape) % 2, 1.5, -1.5).astype("float32")
    np.testing.assert_array_equal(AddChange()([change, image]), np.clip(image + change, -1, 1))


@pytest.mark.parametrize(
    ("image", "change", "upstream", "passed"),
    [
        (0.5, 0.2, 3.0, 3.0),
        (1.0, 0.0, -3.0, -3.0),
        # Beyond the range: a step of descent that leads further out is stopped, one that leads back is not.
        (1.0, 0.2, -3.0, 0.0),
        (1.0, 0.2, 3.0, 3.0),
        (-1.0, -0.2, 3.0, 0.0),
        (-1.0, -0.2, -3.0, -3.0),
    ],
)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_change_outside_the_range_can_come_back(
    image: float, change: float, upstream: float, passed: float, jit_compile: bool
) -> None:
    @tf.function(jit_compile=jit_compile)
    def gradient(change: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(change)
            y = AddChange()([change, tf.fill((1, 1, 1, 1), image)])
        return tape.gradient(y, change, output_gradients=tf.fill((1, 1, 1, 1), upstream))

    assert np.squeeze(gradient(tf.fill((1, 1, 1, 1), change))) == passed


def effective_matrix(layer: SpectralConv2D, size: int, channels: int) -> np.ndarray:
    """The kernel that the layer applies, as a matrix: its response to every unit impulse."""
    count = size * size * channels
    impulses = np.eye(count, dtype="float32").reshape(count, size, size, channels)
    return np.asarray(layer(impulses)).reshape(count, -1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_spectral_convolution_bounds_the_singular_value(jit_compile: bool) -> None:
    layer = SpectralConv2D(6, 3, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=0.2, seed=0))
    x = draw(1, 8, 8, 4)
    layer(x)
    kernel, vector = layer.kernel.numpy(), layer.vector_u.numpy()
    layer(x, training=False)
    np.testing.assert_array_equal(layer.vector_u, vector)

    step = tf.function(lambda: layer(x, training=True), jit_compile=jit_compile)
    for _ in range(60):
        step()

    assert np.linalg.norm(kernel.reshape(-1, 6), 2) > 1.05
    assert np.linalg.norm(effective_matrix(layer, 3, 4), 2) == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(layer.kernel, kernel)
    assert not np.array_equal(layer.vector_u, vector)


def test_spectral_convolution_has_the_gradient_of_the_normalised_kernel() -> None:
    layer = SpectralConv2D(3, 3, use_bias=False)
    x = draw(1, 6, 6, 2)
    for _ in range(200):
        layer(x, training=True)
    dy = draw(1, 4, 4, 3, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        y = layer(x)
        kernel = layer.kernel.value
        largest = tf.linalg.svd(tf.reshape(kernel, [-1, 3]), compute_uv=False)[0]
        expected = tf.nn.conv2d(x, kernel / largest, 1, "VALID")
    np.testing.assert_allclose(y, expected, atol=1e-5)
    ours, exact = (tape.gradient(value, layer.kernel.value, dy) for value in (y, expected))
    assert worst(ours.numpy(), exact.numpy()) < 1e-3


def test_spectral_convolution_leaves_the_float32_kernel_alone_under_mixed_precision(mixed_precision: None) -> None:
    layer = SpectralConv2D(4, 3)
    layer(draw(1, 8, 8, 2))
    kernel = layer.kernel.numpy()
    assert layer(draw(1, 8, 8, 2), training=True).dtype == "bfloat16"
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)


def test_spectral_convolution_of_a_zero_kernel_is_finite() -> None:
    layer = SpectralConv2D(4, 3, kernel_initializer="zeros")
    x = draw(1, 8, 8, 2)
    layer.build(x.shape)
    _, dx, dkernel, _ = with_gradient(layer, "xla", x, draw(1, 6, 6, 4))
    assert np.isfinite(dx).all()
    assert np.isfinite(dkernel).all()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_configuration_round_trip(layer: keras.layers.Layer) -> None:
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert stored["registered_name"] == f"cyclegan>{type(layer).__name__}"
    again = keras.saving.deserialize_keras_object(stored, safe_mode=True)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("layer", LAYERS[:-2], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("shape", [(2, 8, 10, 3), (1, 7, 9, 1)])
def test_announced_shape_is_the_real_one(layer: keras.layers.Layer, shape: tuple[int, ...]) -> None:
    fresh = type(layer).from_config(layer.get_config())
    assert fresh.compute_output_shape(shape) == tuple(fresh(draw(*shape)).shape)
    assert fresh.compute_output_shape((None, None, None, shape[-1])) == (None, None, None, shape[-1])


def test_normalization_by_name() -> None:
    assert type(normalization("instance", "n")) is InstanceNormalization
    assert type(normalization("instance_contrib", "n")) is ContribInstanceNormalization
    assert type(normalization("batch", "n")) is keras.layers.BatchNormalization
    assert normalization("none", "n") is None
    with pytest.raises(ValueError, match="'layer': must be one of"):
        normalization("layer", "n")


@pytest.mark.parametrize("norm", ["instance", "instance_contrib", "batch", "none"])
def test_batches_are_independent_says_what_the_networks_do(norm: str) -> None:
    x = draw(2, 32, 32, 3)
    for model in (
        build_generator(base_filters=2, blocks=1, norm=norm, init_gain=0.2),
        build_discriminator(base_filters=2, norm=norm, init_gain=0.2),
    ):
        alone, together = model(x[:1], training=True), model(x, training=True)[:1]
        independent = np.abs(alone - together).max() < 1e-4
        assert batches_are_independent(model) is bool(independent) is (norm != "batch")
    nested = keras.Sequential([model])
    assert batches_are_independent(nested) is (norm != "batch")
