from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models import build_generator, size_multiple
from cyclegan.models.layers import (
    BilinearUpsampling2D,
    BlurPooling2D,
    ReflectionPadding2D,
)
from cyclegan.models.normalization import ContribInstanceNormalization, InstanceNormalization

TUTORIAL = {"skip": "concat", "padding": "same", "norm": "instance_contrib", "output_norm": True}
TINY: dict[str, Any] = {"base_filters": 4, "blocks": 1, "init_gain": 0.2}


def count(model: keras.Model, kind: type[keras.layers.Layer]) -> int:
    return sum(type(layer) is kind for layer in model.layers)


def trainable_parameters(model: keras.Model) -> int:
    return sum(weight.value.shape.num_elements() for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({**TUTORIAL, "blocks": 9}, 35_276_553),
        ({**TUTORIAL, "blocks": 6}, 18_461_961),
        ({**TUTORIAL, "blocks": 9, "skip": "add"}, 11_388_681),
        ({**TUTORIAL, "blocks": 6, "skip": "add"}, 7_845_129),
        # The paper's generator: one gamma and beta for each of three channels less than with `output_norm`.
        ({}, 11_388_675),
        ({"upsample": "resize"}, 11_388_675),
        ({"upsample": "antialias"}, 11_388_675),
    ],
)
def test_parameter_counts(
    options: dict[str, Any], parameters: int, within: Callable[[str, float, float], None]
) -> None:
    within("parameters of generators", abs(build_generator(**options).count_params() - parameters), 0)


def test_unet_has_the_references_54_414_million_parameters() -> None:
    assert trainable_parameters(build_generator(architecture="unet", norm="batch")) == 54_414_531


def test_equals_the_tutorials_generator(
    parity: Path, weights_of: Callable[..., list[np.ndarray]], within: Callable[[str, float, float], None]
) -> None:
    generator = build_generator(base_filters=8, blocks=2, **TUTORIAL)
    with np.load(parity / "generator_io.npz") as archive:
        generator.set_weights(weights_of(archive, "weights"))
        deviation = np.abs(generator(archive["x"]) - archive["y"]).max()
        within("tutorial's generator, keras-contrib's weights: output", deviation, 1e-5)
    with np.load(parity / "seed_loop.npz") as archive:
        for name, fake, domain in (("g_AtoB", "fake_B", "A"), ("g_BtoA", "fake_A", "B")):
            generator.set_weights(weights_of(archive, f"init/{name}"))
            first = archive["draw/ix_" + domain][0]
            y = generator(archive[f"data/{domain}"][first : first + 1])
            np.testing.assert_allclose(y, archive[f"step/{fake}"][0:1], atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        TUTORIAL,
        {"upsample": "resize"},
        {"upsample": "antialias", "padding": "same"},
        {"halving": "centered"},
        {"halving": "centered", "upsample": "resize"},
        {"architecture": "unet", "depth": 3},
        {"architecture": "unet", "depth": 3, "upsample": "resize", "output_norm": True},
        {"architecture": "unet_full", "depth": 3},
    ],
)
@pytest.mark.parametrize(("channels_in", "channels_out"), [(3, 3), (1, 4)])
def test_any_size_and_channels_give_an_image_of_the_same_size(
    options: dict[str, Any], channels_in: int, channels_out: int
) -> None:
    generator = build_generator(channels_in, channels_out, **{**TINY, **options})
    assert generator.input_shape == (None, None, None, channels_in)
    assert generator.output_shape == (None, None, None, channels_out)
    for height, width in ((16, 16), (16, 40), (48, 24)):
        x = np.random.default_rng(0).uniform(-1, 1, (2, height, width, channels_in)).astype("float32")
        y = generator(x)
        assert y.shape == (2, height, width, channels_out)
        assert y.dtype == "float32"
        assert 0.05 < np.abs(y).max() <= 1
        assert np.std(y) > 0.01


@pytest.mark.parametrize("architecture", ["resnet", "unet"])
def test_mixed_precision_gives_float32_near_the_float32_network(
    architecture: str, images: np.ndarray, mixed_precision: None
) -> None:
    options = {**TINY, "architecture": architecture, "depth": 3}
    half = build_generator(**options)
    keras.config.set_dtype_policy("float32")
    full = build_generator(**options)
    y = half(images)
    assert y.dtype == "float32"
    assert any(layer.compute_dtype == "bfloat16" for layer in half.layers)
    assert 0 < np.abs(y - full(images)).mean() < 0.05


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {**TUTORIAL, "upsample": "antialias", "residual_output": True}],
)
def test_compiles_under_xla_with_the_same_gradients(options: dict[str, Any], images: np.ndarray) -> None:
    generator = build_generator(**{**TINY, **options})
    upstream = np.random.default_rng(0).normal(size=images.shape).astype("float32")

    def run(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            y = generator(x, training=True)
        # Biases ahead of a normalization have a gradient of rounding errors only.
        kernels = [weight.value for weight in generator.trainable_weights if weight.name != "bias"]
        return [y, *tape.gradient(y, kernels, upstream)]

    plain, compiled = run(images), tf.function(run, jit_compile=True)(tf.constant(images))
    for one, two in zip(plain, compiled, strict=True):
        assert np.isfinite(two).all()
        np.testing.assert_allclose(two, one, atol=1e-4 * float(np.abs(one).max()))


def test_seed_decides_the_weights() -> None:
    one, same, other = (build_generator(**TINY, seed=seed).get_weights() for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_blocks_and_width() -> None:
    for blocks in (0, 3):
        generator = build_generator(base_filters=4, blocks=blocks)
        assert count(generator, keras.layers.Add) == blocks
    assert generator.get_layer("stem_conv").filters == 4
    assert generator.get_layer("block1a_conv").filters == 16


def test_skip_add_and_concat_join_a_block_with_its_input(images: np.ndarray) -> None:
    for skip in ("add", "concat"):
        generator = build_generator(**TINY, skip=skip)
        names = ("block1b_norm", "down2_relu", f"block1_{skip}", "up1_conv")
        new, before, joined, after = (generator.get_layer(name) for name in names)
        inner = keras.Model(generator.input, [new.output, before.output, joined.output])
        new_value, before_value, joined_value = (np.asarray(value) for value in inner(images))
        expected = new_value + before_value if skip == "add" else np.concatenate([new_value, before_value], -1)
        np.testing.assert_allclose(joined_value, expected, rtol=1e-6)
        # Nothing rectifies the joined value.
        assert after.input is joined.output


def test_padding_reflect_changes_the_border_only(images: np.ndarray) -> None:
    wide = np.tile(images[:1], (1, 2, 2, 1))
    reflect, same = (build_generator(**TINY, norm="none", padding=padding)(wide) for padding in ("reflect", "same"))
    difference = np.abs(reflect - same)[0].max(-1)
    assert difference[:3].mean() > 1e-3
    assert difference[28:36, 44:52].max() < 1e-6
    assert count(build_generator(**TINY), ReflectionPadding2D) == 1 + 2 + 1
    assert count(build_generator(**TINY, padding="same"), ReflectionPadding2D) == 0


def test_upsample_forms() -> None:
    kinds = (keras.layers.Conv2DTranspose, BilinearUpsampling2D, BlurPooling2D)
    found = {
        name: [count(build_generator(**TINY, upsample=name), kind) for kind in kinds]
        for name in ("transpose", "resize", "antialias")
    }
    assert found == {"transpose": [2, 0, 0], "resize": [0, 2, 0], "antialias": [0, 2, 2]}


@pytest.mark.parametrize(("halving", "start"), [("same", 1), ("centered", 0)])
def test_halving_decides_which_pixels_are_kept(halving: str, start: int, images: np.ndarray) -> None:
    """Kernels that copy their middle pixel show where they lie."""
    generator = build_generator(**TINY, norm="none", halving=halving)
    for name in ("down1", "up1"):
        conv = generator.get_layer(f"{name}_conv")
        kernel = np.zeros(conv.kernel.shape, "float32")
        for channel in range(4):
            kernel[1, 1, channel, channel] = 1
        conv.set_weights([kernel, np.zeros(conv.filters, "float32")])
    names = ("stem_relu", "down1_relu", "block1_add", "up1_relu")
    inner = keras.Model(generator.input, [generator.get_layer(name).output for name in names])
    before_down, after_down, before_up, after_up = (np.asarray(value)[..., :4] for value in inner(images))
    np.testing.assert_array_equal(after_down, before_down[:, start::2, start::2])
    np.testing.assert_array_equal(after_up[:, start::2, start::2], np.maximum(before_up, 0))
    assert after_up.sum() == pytest.approx(np.maximum(before_up, 0).sum(), rel=1e-5)


def test_resizing_has_no_checkerboard_and_antialiasing_moves_with_the_image(images: np.ndarray) -> None:
    """A flat image through transposed convolutions shows the stride's pattern; a moved image should stay the same."""
    flat = np.full((1, 64, 64, 3), 0.5, "float32")
    wide = np.tile(images[:1], (1, 2, 2, 1))
    moved = np.roll(wide, 1, axis=2)
    pattern, unsteady = {}, {}
    for upsample in ("transpose", "resize", "antialias"):
        generator = build_generator(**TINY, norm="none", upsample=upsample)
        pattern[upsample] = float(np.std(generator(flat)[0, 24:40, 24:40], axis=(0, 1)).mean())
        steady, after = generator(wide)[0], np.roll(generator(moved)[0], -1, axis=1)
        unsteady[upsample] = float(np.abs(after - steady)[20:44, 20:76].mean() / np.std(steady[20:44, 20:76]))
    assert pattern["transpose"] > 100 * max(pattern["resize"], pattern["antialias"])
    assert unsteady["antialias"] < 0.7 * min(unsteady["transpose"], unsteady["resize"])


def test_norms_differ_in_what_they_do(images: np.ndarray) -> None:
    outputs = {}
    for norm, kind in (
        ("instance", InstanceNormalization),
        ("instance_contrib", ContribInstanceNormalization),
        ("batch", keras.layers.BatchNormalization),
        ("none", None),
    ):
        generator = build_generator(**{**TINY, "init_gain": 0.02}, norm=norm)
        outputs[norm] = np.asarray(generator(images, training=True))
        kinds = (InstanceNormalization, ContribInstanceNormalization, keras.layers.BatchNormalization)
        for each in kinds:
            assert count(generator, each) == (1 + 2 + 2 + 2 if each is kind else 0)
    for one in outputs:
        for two in outputs:
            assert one == two or np.abs(outputs[one] - outputs[two]).mean() > 1e-3, (one, two)


@pytest.mark.parametrize("architecture", ["resnet", "unet"])
def test_output_norm_normalises_the_last_convolution(architecture: str, images: np.ndarray) -> None:
    options = {**TINY, "architecture": architecture, "depth": 3}
    change = np.arctanh(np.clip(build_generator(**options, output_norm=True)(images), -0.9999, 0.9999))
    np.testing.assert_allclose(change.mean((1, 2)), 0, atol=0.02)
    np.testing.assert_allclose(change.std((1, 2)), 1, atol=0.05)
    plain = np.arctanh(np.clip(build_generator(**options)(images), -0.9999, 0.9999))
    assert np.abs(plain.std((1, 2)) - 1).min() > 0.05


@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("architecture", ["resnet", "unet"])
def test_residual_output_starts_near_the_identity(architecture: str, output_norm: bool, images: np.ndarray) -> None:
    options = {"architecture": architecture, "depth": 3, "blocks": 2, "output_norm": output_norm}
    generator = build_generator(**options, residual_output=True)
    with tf.GradientTape() as tape:
        y = generator(images, training=True)
        loss = tf.reduce_mean((y - 0.5) ** 2)
    assert 0 < np.abs(y - images).mean() < 0.06
    # Every layer learns from the first step on.
    kernels = [weight.value for weight in generator.trainable_weights if weight.name == "kernel"]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, kernels))
    assert np.abs(build_generator(**options)(images) - images).mean() > 0.3


@pytest.mark.usefixtures("deterministic")
def test_dropout_acts_in_training_only(images: np.ndarray) -> None:
    for options, layers in (
        ({"blocks": 3}, 3),
        ({"architecture": "unet", "depth": 3}, 1),
        ({"architecture": "unet", "depth": 6}, 1),
        ({"architecture": "unet", "depth": 7}, 2),
        ({"architecture": "unet", "depth": 8}, 3),
    ):
        with_dropout = build_generator(**{**TINY, **options}, dropout=0.5)
        assert count(with_dropout, keras.layers.Dropout) == layers
    for options in ({}, {"architecture": "unet", "depth": 3}):
        with_dropout, without = (build_generator(**{**TINY, **options}, dropout=rate) for rate in (0.5, 0.0))
        without.set_weights(with_dropout.get_weights())
        np.testing.assert_array_equal(with_dropout(images), without(images))
        one, two = with_dropout(images, training=True), with_dropout(images, training=True)
        assert np.abs(one - two).mean() > 1e-3


def test_unet_halves_down_to_one_pixel_and_keeps_its_input(images: np.ndarray) -> None:
    generator = build_generator(architecture="unet", depth=4, base_filters=4)
    names = {layer.name for layer in generator.layers}
    assert {"down2_norm", "down3_norm", "up4_norm", "up3_norm", "up2_norm"} <= names
    assert not {"down1_norm", "down4_norm", "head_norm"} & names
    innermost = keras.Model(generator.input, generator.get_layer("down4_conv").output)
    smallest = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    assert innermost(smallest).shape == (2, 1, 1, 32)
    assert np.abs(np.diff(innermost(smallest), axis=0)).min() > 0
    widths = [layer.filters for layer in build_generator(architecture="unet").layers if hasattr(layer, "filters")]
    assert widths == [64, 128, 256, 512, 512, 512, 512, 512, 512, 512, 512, 512, 256, 128, 64, 3]


def test_unet_at_full_size_sees_single_pixels(images: np.ndarray) -> None:
    generator = build_generator(architecture="unet_full", depth=4, base_filters=8, init_gain=0.2)
    widths = [layer.filters for layer in generator.layers if hasattr(layer, "filters")]
    assert widths == [4, 8, 16, 32, 64, 32, 16, 8, 4, 3]
    # Without what comes from the halvings, two convolutions of 3×3 are left: five pixels around the one that changes.
    from_halvings = generator.get_layer("up1_conv")
    from_halvings.set_weights([np.zeros_like(weight) for weight in from_halvings.get_weights()])
    changed = images.copy()
    changed[:, 21, 34] += 0.5
    rows, columns = np.nonzero(np.abs(generator(changed) - generator(images)).max(axis=(0, 3)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 23, 32, 36)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg"}, "architecture = 'vgg': must be one of resnet, unet, unet_full"),
        ({"skip": "none"}, "skip = 'none': must be one of add, concat"),
        ({"padding": "valid"}, "padding = 'valid': must be one of reflect, same"),
        ({"upsample": "nearest"}, "upsample = 'nearest': must be one of transpose, resize, antialias"),
        ({"halving": "valid"}, "halving = 'valid': must be one of same, centered"),
        ({"norm": "group"}, "norm = 'group': must be one of"),
        ({"channels_out": 1, "residual_output": True}, "channels_in = 3 and channels_out = 1"),
        ({"norm": "none", "output_norm": True}, "output_norm = True: needs a normalization"),
        ({"architecture": "unet", "skip": "concat"}, "has neither skip"),
        ({"architecture": "unet", "upsample": "antialias"}, "has neither skip"),
        ({"architecture": "unet", "depth": 2}, "depth = 2: must be at least 3"),
    ],
)
def test_impossible_choices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_generator(**options)


@pytest.mark.parametrize(
    ("options", "multiple"),
    [
        ({}, 4),
        ({"upsample": "antialias"}, 4),
        ({"halving": "centered"}, 4),
        ({"upsample": "resize", "blocks": 0}, 4),
        ({"architecture": "unet", "depth": 3}, 8),
        ({"architecture": "unet", "depth": 5, "upsample": "resize"}, 32),
        ({"architecture": "unet_full", "depth": 3}, 8),
    ],
)
def test_size_multiple_is_the_smallest_that_works(options: dict[str, Any], multiple: int, tmp_path: Path) -> None:
    generator = build_generator(**{**TINY, **options})
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras", safe_mode=True)
    assert size_multiple(generator) == size_multiple(loaded) == multiple

    def keeps_size(side: int) -> bool:
        try:
            return generator(np.zeros((1, side, side, 3), "float32")).shape[1] == side
        except (ValueError, tf.errors.InvalidArgumentError):
            return False

    assert keeps_size(3 * multiple)
    assert not keeps_size(3 * multiple + multiple // 2)
