"""Translation of images of any size by a generator."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import cyclegan.models  # noqa: F401  (registers the layers that a .keras file names)
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.system.errors import UserError

# Images of one size, `[N, H, W, C]`, or of different sizes, each `[H, W, C]`.
Column = np.ndarray | list[np.ndarray]

# In pixels. A ResNet generator reduces its input to a quarter, where reflecting one pixel needs two.
SMALLEST_SIDE = 8


class Translator:
    """A generator that maps stored images to stored images.

    Images whose sides do not fit the network are padded by reflection at the bottom and the right, and the result is
    cropped. Every call reads the generator's current variables, so one `Translator` serves a whole training.

    Args:
        generator: maps float images [N, H, W, C] in [-1, 1] to [N, H, W, C_out] in [-1, 1].
        bit_depth: bits of each channel of the stored images, 8 (uint8) or 16 (uint16).
        batch_size: images in one call of the network.

    Raises:
        UserError: `bit_depth` is neither 8 nor 16, or `batch_size` is below 1.
    """

    def __init__(self, generator: keras.Model, bit_depth: int = 8, batch_size: int = 8) -> None:
        if bit_depth not in (8, 16):
            raise UserError(f"bit_depth = {bit_depth}: must be 8 or 16")
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: must be at least 1")
        self.generator = generator
        self.channels: int = generator.input_shape[-1]
        self.channels_out: int = generator.output_shape[-1]
        self.bit_depth = bit_depth
        self.batch_size = batch_size
        self._on_images: Callable[[int], object] = lambda count: None
        self._multiple = size_multiple(generator)

        self._fixed_size: tuple[int | None, int | None] = generator.input_shape[1:3]

        # The signature leaves the generator's variable sizes open, so that one trace serves all images.
        @tf.function(input_signature=[tf.TensorSpec([None, *generator.input_shape[1:]], tf.float32)])
        def run(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(generator(images, training=False), tf.float32)

        self._run = run

    @property
    def dtype(self) -> np.dtype:
        """The type of the stored images, uint8 or uint16."""
        return np.dtype(np.uint8 if self.bit_depth == 8 else np.uint16)

    @contextmanager
    def reporting(self, on_images: Callable[[int], object]) -> Iterator[None]:
        """Call `on_images` with the number of images after each batch, while this context lasts."""
        before, self._on_images = self._on_images, on_images
        try:
            yield
        finally:
            self._on_images = before

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Translate stored images.

        Args:
            images: [N, H, W, C], uint8 or uint16 by `bit_depth`. A memory map is read batch by batch.

        Returns:
            [N, H, W, C_out] of the same type and size, rounded to the nearest integer.

        Raises:
            UserError: the images have a wrong rank, number of channels or type, or an output is not finite.
        """
        self.check(images, self.dtype)
        result = np.empty((*images.shape[:-1], self.channels_out), self.dtype)
        for part in self._batches(len(images)):
            result[part] = to_integer(self._translate_batch(to_float(images[part])), self.bit_depth)
        return result

    def translate_float(self, images: np.ndarray) -> np.ndarray:
        """Translate float32 images [N, H, W, C] in [-1, 1]; returns [N, H, W, C_out], float32 in [-1, 1], unrounded.

        Raises:
            UserError: the images have a wrong rank, number of channels or type, or an output is not finite.
        """
        self.check(images, np.dtype(np.float32))
        result = np.empty((*images.shape[:-1], self.channels_out), np.float32)
        for part in self._batches(len(images)):
            result[part] = self._translate_batch(images[part])
        return result

    def _batches(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self.batch_size) for start in range(0, count, self.batch_size))

    def _translate_batch(self, images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        translated = self._run(self.pad(images)).numpy()[:, :height, :width]
        refuse_not_finite(translated)
        self._on_images(len(images))
        return translated

    def pad(self, images: np.ndarray) -> np.ndarray:
        """Pad images [N, H, W, C] by reflection at the bottom and the right to sides that the network takes."""
        height, width = images.shape[1:3]
        padding = [(0, 0), (0, self._padding(height)), (0, self._padding(width)), (0, 0)]
        # np.pad reflects repeatedly if the padding is larger than the image.
        return np.pad(images, padding, mode="reflect")

    def _padding(self, side: int) -> int:
        wanted = max(side, SMALLEST_SIDE)
        return -(-wanted // self._multiple) * self._multiple - side

    def check(self, images: np.ndarray, dtype: np.dtype) -> None:
        """Check rank, channels, type and size of images.

        Raises:
            UserError: the generator cannot take them.
        """
        expected = f"expected {dtype} images [N, H, W, {self.channels}]"
        if images.ndim != 4 or images.shape[-1] != self.channels or 0 in images.shape[1:]:
            raise UserError(f"images have shape {list(images.shape)}: {expected}")
        if images.dtype != dtype:
            raise UserError(f"images are {images.dtype}: {expected}")
        for side, fixed in zip(images.shape[1:3], self._fixed_size, strict=True):
            if fixed is not None and side + self._padding(side) != fixed:
                raise UserError(
                    f"images have shape {list(images.shape)}: the generator takes "
                    f"{self._fixed_size[0]}×{self._fixed_size[1]} pixels only; resize them first"
                )


def refuse_not_finite(translated: np.ndarray) -> None:
    """Check that all outputs of a generator are finite.

    Raises:
        UserError: one is not.
    """
    if not np.isfinite(translated).all():
        raise UserError(
            "generator: returns values that are not finite, because its training diverged; "
            "train again with a lower train.learning_rate"
        )


def each(function: Callable[[np.ndarray], np.ndarray], images: Column) -> Column:
    """Apply a function of `[N, H, W, C]` to an array at once, or to a list of `[H, W, C]` image by image."""
    if isinstance(images, np.ndarray):
        return function(images)
    return [function(image[None])[0] for image in images]


def load_generator(path: str | Path) -> keras.Model:
    """Load a generator from a `.keras` file for inference; a file that would run code on loading is refused.

    Raises:
        UserError: the file is missing, corrupt or no `.keras` file, or its model does not map images to images.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a file; name a generator's .keras file")
    if not path.is_file():
        raise UserError(f"{path}: does not exist; train first ('dvc repro'), or name a generator's .keras file")
    if path.suffix != ".keras":
        raise UserError(f"{path}: is not a .keras file; name a generator's .keras file")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is cut short or no .keras file; restore it or train again")
    try:
        generator = keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    # The file may come from anyone, and its content can make Keras raise any exception.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = reason if len(reason) <= 300 else f"{reason[:300]}…"
        raise UserError(f"{path}: cannot be loaded as a generator; restore it or train again: {reason}") from None
    shapes = (getattr(generator, "input_shape", None), getattr(generator, "output_shape", None))
    if not all(isinstance(shape, tuple) and len(shape) == 4 and isinstance(shape[-1], int) for shape in shapes):
        raise UserError(
            f"{path}: holds a model {shapes[0]} → {shapes[1]}, but a generator maps [N, H, W, C] to [N, H, W, C]; "
            "name a generator's .keras file"
        )
    return generator


def size_multiple(generator: keras.Model) -> int:
    """Return the number that must divide both sides of an input image, in pixels.

    It is the product of the strides of the network's layers, so it also works for a model loaded from a file: 4 for the
    residual generator, `2**depth` for a U-Net.
    """
    return math.prod(
        max(layer.strides)
        for layer in generator._flatten_layers(include_self=False)
        if hasattr(layer, "strides") and not isinstance(layer, keras.layers.Conv2DTranspose)
    )
