"""Large images in strips: equal to the whole image, for every generator, normalization and size of strips."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from cyclegan.inference import strips
from cyclegan.inference.strips import UnsupportedLayerError, plan, translate, translate_strips
from cyclegan.models.generator import build_generator
from cyclegan.models.legacy.keras_contrib import load_legacy_generator
from cyclegan.models.pixels import to_float
from cyclegan.models.translator import Translator
from cyclegan.serving.app import translated_pngs
from cyclegan.system.errors import UserError

CONTRIB = Path(__file__).parents[1] / "fixtures" / "parity" / "generator_keras_contrib.h5"
GENERATORS: dict[str, dict[str, Any]] = {
    "paper": {},
    "padding same, resize": {"padding": "same", "upsample": "resize", "residual_output": True},
    "antialias, contrib": {"upsample": "antialias", "norm": "instance_contrib"},
    "centered": {"halving": "centered"},
    "tutorial": {"skip": "concat", "output_norm": True, "norm": "instance_contrib", "padding": "same"},
    "batch": {"norm": "batch", "dropout": 0.5},
    "none": {"norm": "none", "padding": "same"},
    "gray to color": {"channels_in": 1},
    "unet": {"architecture": "unet"},
    "unet, resize, batch": {"architecture": "unet", "upsample": "resize", "norm": "batch"},
    "unet_full": {"architecture": "unet_full"},
    "unet_full, resize, contrib": {
        **{"architecture": "unet_full", "upsample": "resize", "norm": "instance_contrib"},
        **{"residual_output": True, "output_norm": True},
    },
    "unet, none": {"architecture": "unet", "norm": "none"},
}


def lively(generator: keras.Model) -> keras.Model:
    """The generator with weights that make outputs far from constant and each normalization matter."""
    random = np.random.default_rng(1)
    for layer in generator.layers:
        values = []
        for array in layer.get_weights():
            if array.ndim == 4:
                # A kernel that keeps the size of the activations.
                values.append(random.normal(0, 1.5 / np.sqrt(np.prod(array.shape[:3])), array.shape))
            else:
                values.append(random.uniform(0.5, 1.5, array.shape))
        layer.set_weights(values)
    return generator


def made(name: str) -> keras.Model:
    options = {"base_filters": 3, "depth": 4} if "unet" in name else {"base_filters": 3, "blocks": 2}
    return lively(build_generator(**(options | GENERATORS[name])))


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image [H, W, C] whose brightness rises from the top to the bottom, so that its strips differ."""
    random = np.random.default_rng(0)
    rise = np.linspace(0, 155, height)[:, None, None]
    return (rise + random.integers(0, 100, (height, width, channels))).astype(np.uint8)


@pytest.mark.parametrize("name", GENERATORS)
def test_strips_give_the_whole_image(name: str) -> None:
    generator = made(name)
    # Sides that the network takes only padded, and strips of one to eight rows.
    image = photo(30, 21, generator.input_shape[-1])
    translator = Translator(generator)
    whole = translator.translate(image[None])
    assert whole.std() > 10
    in_strips = translate(translator, image[None], 3)
    assert in_strips.dtype == np.uint8
    assert np.abs(in_strips.astype(int) - whole).max() <= 1


def test_the_difference_is_rounding() -> None:
    generator, image = made("paper"), to_float(photo(48, 32))
    result = np.full_like(image, np.nan)

    def write(start: int, rows: np.ndarray) -> None:
        result[start : start + len(rows)] = rows

    translate_strips(plan(generator, 48, 32), lambda start, stop: image[start:stop], write, tile=2)
    assert np.abs(result - generator(image[None])[0]).max() < 1e-4
    # Tiles that know only themselves differ in brightness.
    apart = np.concatenate([generator(image[None, :24])[0], generator(image[None, 24:])[0]])
    assert np.abs(apart - generator(image[None])[0]).max() > 0.1


def test_statistics_over_all_channels_are_those_of_the_whole_image() -> None:
    """The default of keras-contrib's normalization."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = strips.ContribInstanceNormalization(axis=None)(x)
    generator = lively(keras.Model(image, keras.layers.Conv2D(3, 3, padding="same", activation="tanh")(x)))
    translator, images = Translator(generator), photo(24, 16)[None]
    assert np.abs(translate(translator, images, 1).astype(int) - translator.translate(images)).max() <= 1


def test_a_generator_of_keras_2_runs_in_strips() -> None:
    translator, images = Translator(load_legacy_generator(CONTRIB)), photo(32, 24)[None]
    assert np.abs(translate(translator, images, 2).astype(int) - translator.translate(images)).max() <= 1


def test_16_bits_and_several_images() -> None:
    translator = Translator(made("paper"), bit_depth=16)
    images = np.stack([photo(20, 24), photo(20, 24)[::-1]]).astype(np.uint16) * 257
    in_strips = translate(translator, images, 2)
    assert in_strips.dtype == np.uint16
    # An 8-bit level has 257 of 16 bits.
    assert np.abs(in_strips.astype(int) - translator.translate(images)).max() < 257


def test_auto_takes_strips_only_for_large_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    translator, images = Translator(made("paper")), photo(32, 24)[None]
    whole, ran = translator.translate(images), []
    monkeypatch.setattr(strips, "_in_strips", lambda translator, image, tile: ran.append(tile) or whole[0])
    assert np.array_equal(translate(translator, images), whole)
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 32 * 24 * 3 - 1)
    assert ran == []
    translate(translator, images)
    assert ran == [strips.TILE]
    translate(translator, images, "off")
    assert ran == [strips.TILE]


def larger(image: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.ZeroPadding2D(1)(image)


def pooled(image: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Multiply()([image, keras.layers.GlobalAveragePooling2D(keepdims=True)(image)])


@pytest.mark.parametrize("layers", [larger, pooled])
def test_a_generator_that_cannot_run_in_strips_takes_whole_images(
    layers: Callable[[keras.KerasTensor], keras.KerasTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = keras.Input((None, None, 3))
    translator = Translator(keras.Model(image, layers(image)))
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 0)
    images = photo(16, 16)[None]
    assert np.array_equal(translate(translator, images), translator.translate(images))
    with pytest.raises(UnsupportedLayerError, match="--tile off"):
        translate(translator, images, 4)


def test_a_full_disk_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _values: memoryview) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(strips.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(UserError, match="TMPDIR"):
        translate(Translator(made("paper")), photo(16, 16)[None], 2)


def test_outputs_that_are_not_finite_are_refused() -> None:
    generator = made("none")
    generator.get_layer("head_conv").bias.assign([np.nan] * 3)
    with pytest.raises(UserError, match="not finite"):
        translate(Translator(generator), photo(16, 16)[None], 2)


def test_the_server_translates_large_images_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, image = Translator(made("paper")), photo(24, 20)
    Image.fromarray(image).save(tmp_path / "photo.png")
    whole = translator.translate(image[None])[0]
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 0)
    monkeypatch.setattr(translator, "_run", None)
    (answer,) = translated_pngs(translator, [tmp_path / "photo.png"], 1000)
    assert np.abs(np.asarray(Image.open(io.BytesIO(answer))).astype(int) - whole).max() <= 1
