"""Translation of an image that is too large for memory, in overlapping strips of rows.

A generator that ran over one tile after the other would normalize each tile by the tile's own mean and deviation, and
a U-Net would see only the tile. Therefore not the generator but each of its layers runs over the image: strip by
strip, with as many further rows on both sides as its kernel reads. The result is that of the whole image, up to
rounding. While the input of an instance normalization is computed, its statistics are collected, so the
normalization knows those of the whole image. Intermediate results lie in temporary files, not in memory.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cyclegan.models.layers import AddChange, BilinearUpsampling2D, BlurPooling2D, ReflectionPadding2D
from cyclegan.models.normalization import ContribInstanceNormalization, InstanceNormalization
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.models.translator import Translator, refuse_not_finite
from cyclegan.system.errors import UserError

Tile = int | Literal["auto", "off"]

# Largest output of a layer, in values, with which `auto` translates an image at once: that takes about 1 GiB.
VALUES_AT_ONCE = 2**26
# The tile of `auto`.
TILE = 384
# Values of a layer's output per pixel of `tile`: the filters of the paper's first layer.
VALUES_PER_PIXEL = 64

# Each output row of these layers depends on the same row of the inputs.
_BY_ROW = (
    *(layers.InputLayer, layers.Activation, layers.ReLU, layers.LeakyReLU, layers.Dropout, layers.Add),
    *(layers.Concatenate, layers.BatchNormalization, AddChange, InstanceNormalization, ContribInstanceNormalization),
)
_INSTANCE_NORMS = (InstanceNormalization, ContribInstanceNormalization)
_CONVOLUTIONS = (layers.Conv2D, layers.Conv2DTranspose)


class UnsupportedLayerError(UserError):
    """The generator has a layer that cannot run over strips."""


def translate(translator: Translator, images: np.ndarray, tile: Tile = "auto") -> np.ndarray:
    """Translate stored images of one size, in strips if they are large.

    Args:
        images: [N, H, W, C], uint8 or uint16, as `Translator.translate` takes them.
        tile: `off` translates them at once; a number in strips with about as many values as `tile`×`tile` pixels at
            64 filters; `auto` in strips of `TILE` if a layer's output has more than `VALUES_AT_ONCE`.

    Returns:
        [N, H, W, C_out] of the same type and size.

    Raises:
        UserError: as `Translator.translate`; the disk is full; or `tile` is a number, and a layer cannot run in strips.
    """
    translator.check(images, translator.dtype)
    if tile == "off" or len(images) == 0:
        return translator.translate(images)
    height, width = translator.pad(images[:1]).shape[1:3]
    try:
        steps = plan(translator.generator, height, width)
    except UnsupportedLayerError:
        if tile == "auto":
            return translator.translate(images)
        raise
    if tile == "auto" and largest_output(steps) <= VALUES_AT_ONCE:
        return translator.translate(images)
    return np.stack([_in_strips(translator, image, TILE if tile == "auto" else tile) for image in images])


def _in_strips(translator: Translator, image: np.ndarray, tile: int) -> np.ndarray:
    """Translate one stored image, `[H, W, C]`, in strips."""
    padded = translator.pad(image[None])[0]
    result = np.empty((*image.shape[:2], translator.channels_out), translator.dtype)

    def write(start: int, rows: np.ndarray) -> None:
        refuse_not_finite(rows)
        place = result[start : start + len(rows)]
        place[:] = to_integer(rows[: len(place), : image.shape[1]], translator.bit_depth)

    steps = plan(translator.generator, *padded.shape[:2])
    translate_strips(steps, lambda start, stop: to_float(padded[start:stop]), write, tile)
    return result


@dataclass
class _Step:
    """One layer of the generator, at its place in the graph.

    Attributes:
        layer: the layer.
        inputs: the steps before it.
        shape: `(height, width, channels)` of its output.
        up, down: factors from input rows to output rows.
        margin: further input rows on each side that the layer reads, at least.
        consumers: the layers after it.
        file: its output, if it is stored.
        mean, variance: of each channel over the image, if it is stored.
    """

    layer: keras.layers.Layer
    inputs: list[_Step]
    shape: tuple[int, int, int]
    up: int
    down: int
    margin: int
    consumers: list[keras.layers.Layer] = field(default_factory=list)
    file: Any = None
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None

    @property
    def is_stored(self) -> bool:
        """Whether its output goes to a file: it is costly to repeat, or its statistics are needed."""
        if any(isinstance(layer, _INSTANCE_NORMS) for layer in self.consumers):
            return True
        is_cropped = any(isinstance(layer, layers.Cropping2D) for layer in self.consumers)
        return isinstance(self.layer, layers.Add) or (isinstance(self.layer, _CONVOLUTIONS) and not is_cropped)

    def sources(self) -> Iterator[_Step]:
        """The stored steps from which its output is computed."""
        for step in self.inputs:
            if step.is_stored:
                yield step
            else:
                yield from step.sources()

    def row_values(self) -> int:
        """Values of one row, of this output or of what it is computed from."""
        before = (step.shape[1] * step.shape[2] if step.is_stored else step.row_values() for step in self.inputs)
        return max(self.shape[1] * self.shape[2], *before, 0)


def plan(generator: keras.Model, height: int, width: int) -> list[_Step]:
    """The layers of a generator in the order in which they run on an image of this size.

    Raises:
        UnsupportedLayerError: a layer cannot run over strips.
    """
    # Only functional models have nodes.
    nodes = getattr(generator, "_nodes_by_depth", {})
    if not nodes:
        raise UnsupportedLayerError("generator: is not a functional model; use --tile off")
    steps: dict[int, _Step] = {}
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            layer, inputs = node.operation, [steps[id(tensor)] for tensor in node.input_tensors]
            geometry = _geometry(layer)
            shapes: list[Any] = [(1, *step.shape) for step in inputs]
            if not inputs:
                shape = (height, width, node.outputs[0].shape[-1])
            else:
                shape = tuple(layer.compute_output_shape(shapes[0] if len(shapes) == 1 else shapes))[1:]
            step = _Step(layer, inputs, shape, *geometry)
            for before in inputs:
                before.consumers.append(layer)
            steps[id(node.outputs[0])] = step
    planned = list(steps.values())
    if planned[-1].shape[:2] != (height, width):
        raise UnsupportedLayerError("generator: changes the size of an image; use --tile off")
    return planned


def largest_output(steps: list[_Step]) -> int:
    """Number of values of the largest output of a layer."""
    return max(int(np.prod(step.shape)) for step in steps)


def translate_strips(
    steps: list[_Step], read: Callable[[int, int], np.ndarray], write: Callable[[int, np.ndarray], None], tile: int
) -> None:
    """Translate an image strip by strip.

    Args:
        steps: of `plan` for the size of the image.
        read: returns rows of the image, `[rows, W, C]` float32 in [-1, 1], from a first to before a last one.
        write: takes the number of a row and the translated rows from there on, `[rows, W, C_out]`.
        tile: a strip has about as many values as `tile`×`tile` pixels with 64 filters.

    Raises:
        UserError: the disk is full.
    """
    stored = [step for step in steps[:-1] if step.is_stored]
    last_use = {id(source): step for step in [*stored, steps[-1]] for source in step.sources()}
    try:
        for step in stored:
            step.file = tempfile.TemporaryFile(prefix="cyclegan-", buffering=0)  # noqa: SIM115
            _store(step, read, tile)
            for source in stored:
                if last_use.get(id(source)) is step:
                    source.file.close()
        for start, stop in _strips(steps[-1], tile):
            write(start, _computed(steps[-1], start, stop, read)[0].numpy())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        gibibytes = 4 * largest_output(steps) / 2**30
        raise UserError(
            f"{tempfile.gettempdir()}: no space for intermediate results of about {3 * gibibytes:.1f} GiB; set TMPDIR "
            "to a folder with more, or make the image smaller"
        ) from None
    finally:
        for step in stored:
            if step.file is not None:
                step.file.close()


def _store(step: _Step, read: Callable[[int, int], np.ndarray], tile: int) -> None:
    """Compute the output of a step into its file, and the statistics of its channels on the way."""
    count, mean, squares = 0, np.zeros(step.shape[2]), np.zeros(step.shape[2])
    for start, stop in _strips(step, tile):
        rows = _computed(step, start, stop, read)
        # A disk that fills up takes a part of them first.
        unwritten = memoryview(rows.numpy().tobytes())
        while unwritten:
            unwritten = unwritten[step.file.write(unwritten) :]
        # Merge mean and squared deviations of the strip with those of the rows above (Chan et al. 1979).
        strip_mean = tf.reduce_mean(rows, (0, 1, 2))
        strip_squares = tf.reduce_mean(tf.square(rows - strip_mean), (0, 1, 2)).numpy().astype(np.float64)
        size, difference = (stop - start) * step.shape[1], strip_mean.numpy() - mean
        squares += size * strip_squares + difference**2 * count * size / (count + size)
        count += size
        mean += difference * size / count
    step.mean, step.variance = mean, squares / count


def _strips(step: _Step, tile: int) -> Iterator[tuple[int, int]]:
    """The first row, and the row after the last one, of each strip of an output."""
    height, rows = step.shape[0], max(1, VALUES_PER_PIXEL * tile**2 // step.row_values())
    return ((start, min(start + rows, height)) for start in range(0, height, rows))


def _rows(step: _Step, start: int, stop: int, read: Callable[[int, int], np.ndarray]) -> tf.Tensor:
    """Rows of an output, `[1, rows, W, C]`, from its file or computed."""
    if step.file is None:
        return _computed(step, start, stop, read)
    _, width, channels = step.shape
    row = 4 * width * channels
    values = np.frombuffer(os.pread(step.file.fileno(), (stop - start) * row, start * row), np.float32)
    return tf.constant(values.reshape(1, stop - start, width, channels))


def _computed(step: _Step, start: int, stop: int, read: Callable[[int, int], np.ndarray]) -> tf.Tensor:
    """Rows of an output, `[1, rows, W, C]`, of the image or computed from a strip of its inputs.

    The strip begins at a multiple of the stride. Where it ends inside the image, the layer pads it as if the image
    ended there: the rows which that changes are within the margin and are cut off.
    """
    if not step.inputs:
        return tf.constant(read(start, stop)[None])
    down, height = step.down, step.inputs[0].shape[0]
    # A strip begins and ends at a multiple of the stride, as the image does: `same` padding depends on it.
    first = max(0, start * down // step.up - step.margin) // down * down
    last = min(height, -(-(stop * down // step.up + 1 + step.margin) // down) * down) if step.margin else stop
    inputs = [_rows(before, first, last, read) for before in step.inputs]
    if isinstance(step.layer, _INSTANCE_NORMS):
        output = _normalized(step, inputs[0])
    else:
        output = step.layer(inputs[0] if len(inputs) == 1 else inputs, training=False)
    skipped = start - first * step.up // step.down
    return output[:, skipped : skipped + stop - start]


def _normalized(step: _Step, rows: tf.Tensor) -> tf.Tensor:
    """Instance normalization by the statistics of the whole image."""
    layer, mean, variance = step.layer, step.inputs[0].mean, step.inputs[0].variance
    assert mean is not None
    assert variance is not None
    if isinstance(layer, InstanceNormalization):
        inverse = 1 / np.sqrt(variance + layer.epsilon)
    else:
        if layer.axis is None:
            # One mean and variance of all channels together.
            variance, mean = np.mean(variance + (mean - mean.mean()) ** 2), mean.mean()
        inverse = 1 / (np.sqrt(variance) + layer.epsilon)
    gamma = 1.0 if layer.gamma is None else layer.gamma.numpy()
    beta = 0.0 if layer.beta is None else layer.beta.numpy()
    return (rows - np.float32(mean)) * np.float32(gamma * inverse) + np.float32(beta)


def _geometry(layer: keras.layers.Layer) -> tuple[int, int, int]:
    """The factors from input rows to output rows (`up`, `down`), and the margin in rows.

    Raises:
        UnsupportedLayerError: the rows that the layer reads are unknown.
    """
    match layer:
        case layers.Conv2DTranspose():
            return layer.strides[0], 1, layer.kernel_size[0] - 1
        case layers.Conv2D():
            return 1, layer.strides[0], (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        case BilinearUpsampling2D():
            return 2, 1, 2
        case layers.UpSampling2D():
            return layer.size[0], 1, 2
        case BlurPooling2D():
            return 1, 2, 2
        case ReflectionPadding2D():
            # The last output row is a copy of one that lies two paddings above it in the input.
            return 1, 1, 4 * layer.padding
        case layers.ZeroPadding2D():
            return 1, 1, 4 * max(layer.padding[0])
        case layers.Cropping2D():
            return 1, 1, 1 + max(layer.cropping[0])
    is_along_channels = getattr(layer, "axis", -1) in (-1, 3, None)
    if not isinstance(layer, _BY_ROW) or not is_along_channels:
        raise UnsupportedLayerError(
            f"layer {layer.name} ({type(layer).__name__}): cannot run over strips; use --tile off"
        )
    return 1, 1, 0
