"""Apply a generator to images of any size."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import cyclegan.models  # noqa: F401  (registers the layers that a .keras file names)
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.system.errors import UserError

Column = np.ndarray | list[np.ndarray]
"""Images of one size, `[N, H, W, C]`, or of different sizes, each `[H, W, C]`."""

# A ResNet generator at its narrowest is a quarter of the input, and reflecting one pixel there needs two.
SMALLEST_SIDE = 8


class Translator:
    """A generator that takes images as they are stored and returns them as they are stored.

    Sides that the network cannot take are padded at the bottom and the right by reflection, and the result is cropped
    back. The generator's variables are read at every call, so one `Translator` serves a whole training.

    Args:
        generator: maps float images [N, H, W, C] in [-1, 1] to [N, H, W, C_out] in [-1, 1].
        bit_depth: of the stored images, 8 (uint8) or 16 (uint16).
        batch_size: images in one call of the network.
    """

    def __init__(self, generator: keras.Model, bit_depth: int = 8, batch_size: int = 8) -> None:
        if bit_depth not in (8, 16):
            raise UserError(f"bit_depth = {bit_depth}: images hold 8 or 16 bits a channel")
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: must be at least 1")
        self.channels: int = generator.input_shape[-1]
        self.channels_out: int = generator.output_shape[-1]
        self.bit_depth = bit_depth
        self.batch_size = batch_size
        self._multiple = size_multiple(generator)

        self._fixed_size: tuple[int | None, int | None] = generator.input_shape[1:3]

        # The signature leaves every size open that the generator leaves open: one trace serves all images.
        @tf.function(input_signature=[tf.TensorSpec([None, *generator.input_shape[1:]], tf.float32)])
        def run(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(generator(images, training=False), tf.float32)

        self._run = run

    @property
    def dtype(self) -> np.dtype:
        """Of stored images: uint8 or uint16."""
        return np.dtype(np.uint8 if self.bit_depth == 8 else np.uint16)

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Translate stored images.

        Args:
            images: [N, H, W, C], uint8 or uint16 by `bit_depth`. A memory map is read batch by batch.

        Returns:
            [N, H, W, C_out] of the same type and size, rounded to the nearest integer.

        Raises:
            UserError: wrong rank, channels or type, or an output that is not finite.
        """
        self._check(images, self.dtype)
        result = np.empty((*images.shape[:-1], self.channels_out), self.dtype)
        for part in self._batches(len(images)):
            result[part] = to_integer(self._translate_batch(to_float(images[part])), self.bit_depth)
        return result

    def translate_float(self, images: np.ndarray) -> np.ndarray:
        """Translate float32 images [N, H, W, C] in [-1, 1]; returns [N, H, W, C_out], float32 in [-1, 1], unrounded.

        Raises:
            UserError: wrong rank, channels or type, or an output that is not finite.
        """
        self._check(images, np.dtype(np.float32))
        result = np.empty((*images.shape[:-1], self.channels_out), np.float32)
        for part in self._batches(len(images)):
            result[part] = self._translate_batch(images[part])
        return result

    def _batches(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self.batch_size) for start in range(0, count, self.batch_size))

    def _translate_batch(self, images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        padding = [(0, 0), (0, self._padding(height)), (0, self._padding(width)), (0, 0)]
        # np.pad reflects again and again where the padding is larger than the image.
        padded = np.pad(images, padding, mode="reflect")
        translated = self._run(padded).numpy()[:, :height, :width]
        if not np.isfinite(translated).all():
            raise UserError(
                "the generator returns values that are not finite: its training diverged; "
                "train again with a lower train.learning_rate"
            )
        return translated

    def _padding(self, side: int) -> int:
        wanted = max(side, SMALLEST_SIDE)
        return -(-wanted // self._multiple) * self._multiple - side

    def _check(self, images: np.ndarray, dtype: np.dtype) -> None:
        expected = f"expected {dtype} images [N, H, W, {self.channels}]"
        if images.ndim != 4 or images.shape[-1] != self.channels or 0 in images.shape[1:]:
            raise UserError(f"images have shape {list(images.shape)}: {expected}")
        if images.dtype != dtype:
            raise UserError(f"images are {images.dtype}: {expected}")
        for side, fixed in zip(images.shape[1:3], self._fixed_size, strict=True):
            if fixed is not None and side + self._padding(side) != fixed:
                raise UserError(
                    f"images have shape {list(images.shape)}: this generator was built for "
                    f"{self._fixed_size[0]}×{self._fixed_size[1]} pixels only; resize them first"
                )


def each(function: Callable[[np.ndarray], np.ndarray], images: Column) -> Column:
    """Apply a function of `[N, H, W, C]` to an array at once, and to a list of `[H, W, C]` image by image."""
    if isinstance(images, np.ndarray):
        return function(images)
    return [function(image[None])[0] for image in images]


def load_generator(path: str | Path) -> keras.Model:
    """Load a generator from a `.keras` file, for inference. Files that would run code on loading are refused.

    Raises:
        UserError: the file is missing, is no `.keras` file, is damaged, or its model does not map images to images.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file: name a generator's .keras file")
    if not path.is_file():
        raise UserError(f"{path} does not exist: train first ('dvc repro'), or name a generator's .keras file")
    if path.suffix != ".keras":
        raise UserError(f"{path} is not a .keras file: name a generator's .keras file")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short or no .keras file at all; restore or train it again")
    try:
        generator = keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    # The file may be a stranger's: what its parts make Keras raise has no limits.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = reason if len(reason) <= 300 else f"{reason[:300]}…"
        raise UserError(f"{path} cannot be loaded as a generator; restore or train it again: {reason}") from None
    shapes = (getattr(generator, "input_shape", None), getattr(generator, "output_shape", None))
    if not all(isinstance(shape, tuple) and len(shape) == 4 and isinstance(shape[-1], int) for shape in shapes):
        raise UserError(
            f"{path} holds a model {shapes[0]} → {shapes[1]}: a generator maps [N, H, W, C] to [N, H, W, C]"
        )
    return generator


def size_multiple(generator: keras.Model) -> int:
    """Return the number of which both sides of an input image must be multiples, in pixels.

    It is the product of the strides by which the network shrinks its input, read off its layers, so it holds for
    a model loaded from a file as well: 4 for the residual generator, `2**depth` for a U-Net.
    """
    return math.prod(
        max(layer.strides)
        for layer in generator._flatten_layers(include_self=False)
        if hasattr(layer, "strides") and not isinstance(layer, keras.layers.Conv2DTranspose)
    )
