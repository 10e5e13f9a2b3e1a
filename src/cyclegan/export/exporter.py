"""Write a generator to a file for other runtimes, and keep the file only if it answers as the generator does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cyclegan.export.formats import LITERT, LITERT_HALF, ONNX, SAVED_MODEL, Format, Run
from cyclegan.export.graphs import float_graph, image_graph, portable
from cyclegan.models.translator import SMALLEST_SIDE, Translator, size_multiple
from cyclegan.system.errors import UserError, one_line
from cyclegan.system.files import replacing, replacing_folder

# The largest difference from the generator that an exported file may have, in its range from -1 to 1. One gray level of
# 8 bits is 0.008.
FLOAT32_BOUND = 1e-3
FLOAT16_BOUND = 2e-2


@dataclass(frozen=True)
class Difference:
    """How far an exported file is from its generator.

    Attributes:
        largest: over all values of the compared images.
        bound: the largest that is accepted.
        top: the largest value that the file returns.
    """

    largest: float
    bound: float
    top: int

    def __str__(self) -> str:
        return f"{self.largest:.2g} of {self.top} (bound {self.bound:.2g})"


def find_format(output: Path, *, half: bool = False) -> Format:
    """The format that a path's ending asks for: `.onnx`, `.tflite`, or a folder without an ending.

    Args:
        half: float16 weights.

    Raises:
        UserError: another ending, `half` for a format without it, or the path exists.
    """
    formats = {".onnx": ONNX, ".tflite": LITERT_HALF if half else LITERT, "": SAVED_MODEL}
    if output.suffix not in formats:
        raise UserError(
            f"{output}: ending {output.suffix} is unknown; use .onnx, .tflite, or no ending for a SavedModel"
        )
    if half and output.suffix != ".tflite":
        raise UserError(f"{output}: only LiteRT has float16 weights; leave --half out, or end the name in .tflite")
    if output.exists() or output.is_symlink():
        raise UserError(f"{output}: exists already; name a new one")
    return formats[output.suffix]


def export(
    generator: keras.Model,
    output: Path,
    file_format: Format,
    *,
    bit_depth: int = 8,
    as_float: bool = False,
    lineage: Mapping[str, str],
) -> Difference:
    """Write a generator, run the written file and compare it with the generator.

    Args:
        file_format: of the file; see `find_format`.
        bit_depth: of the stored images, 8 or 16.
        as_float: write the network alone, float32 in [-1, 1], also where the format can hold the padding and rounding.
        lineage: where the generator comes from; goes into the file's metadata.

    Raises:
        UserError: a package is missing, or the file differs from the generator by more than the bound, or one of them
            returns values that are not finite. No file remains then.
    """
    file_format.require()
    takes_images = file_format.takes_images and not as_float
    network = generator if file_format is SAVED_MODEL else portable(generator)
    graph = image_graph(network, bit_depth) if takes_images else float_graph(network)
    try:
        with _new(output, file_format) as temporary:
            file_format.write(network, graph, temporary, metadata(generator, bit_depth, takes_images, lineage))
            difference = compare(file_format, file_format.load(temporary), generator, bit_depth, takes_images)
            # Written so that NaN is refused too.
            if not difference.largest <= difference.bound:
                raise UserError(
                    f"{output}: differs from the generator by {difference}, so it was removed; "
                    + ("leave --half out" if file_format is LITERT_HALF else "export to another format")
                )
    # TensorFlow writes a SavedModel itself, with errors of its own.
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{output}: cannot be written ({reason}); name another place") from error
    return difference


def metadata(generator: keras.Model, bit_depth: int, takes_images: bool, lineage: Mapping[str, str]) -> dict[str, str]:
    """What a user of the file must know, as text."""
    channels_in, channels_out = generator.input_shape[-1], generator.output_shape[-1]
    value = f"uint{bit_depth} in 0..{2**bit_depth - 1}" if takes_images else "float32 in -1..1"
    multiple, smallest = (1, 1) if takes_images else (size_multiple(generator), SMALLEST_SIDE)
    found = {
        "input": f"image [batch, height, width, {channels_in}], {value}",
        "output": f"translation [batch, height, width, {channels_out}], {value}",
        "channels_in": channels_in,
        "channels_out": channels_out,
        "bit_depth": bit_depth,
        # Both sides of an image must be multiples of this.
        "size_multiple": multiple,
        "smallest_side": -(-smallest // multiple) * multiple,
        "version.cyclegan": version("cyclegan"),
        "version.keras": keras.__version__,
        "version.tensorflow": tf.__version__,
        **lineage,
    }
    return {f"cyclegan.{key}": str(value) for key, value in found.items()} | _onnx_image_keys(
        channels_in, bit_depth, takes_images
    )


def _onnx_image_keys(channels: int, bit_depth: int, takes_images: bool) -> dict[str, str]:
    """ONNX's own keys for images, as far as they have a word for these."""
    keys = {1: {"Image.BitmapPixelFormat": "Gray8"}, 3: {"Image.BitmapPixelFormat": "Rgb8"}}.get(channels, {})
    if not takes_images:
        return keys | {"Image.NominalPixelRange": "Normalized_1_1"}
    return keys | ({"Image.NominalPixelRange": "NominalRange_0_255"} if bit_depth == 8 else {})


def compare(file_format: Format, run: Run, generator: keras.Model, bit_depth: int, takes_images: bool) -> Difference:
    """The largest difference between an exported file and the generator, over random images of several sizes."""
    translator = Translator(generator, bit_depth)
    top = 2**bit_depth - 1 if takes_images else 1
    bound = FLOAT16_BOUND if file_format is LITERT_HALF else FLOAT32_BOUND
    if takes_images:
        # Rounding may add one integer.
        bound = 1 + np.floor(bound * top / 2)
    largest = 0.0
    random = np.random.default_rng(0)
    with _full_float32():
        for count, height, width in _sizes(generator, takes_images):
            shape = (count, height, width, translator.channels)
            if takes_images:
                images = random.integers(0, top, shape, translator.dtype, endpoint=True)
                expected = translator.translate(images)
            else:
                images = random.uniform(-1, 1, shape).astype(np.float32)
                expected = translator.translate_float(images)
            found = run(images)
            if found.shape != expected.shape or found.dtype != expected.dtype:
                raise UserError(
                    f"{file_format.name}: the file returns {found.dtype} {list(found.shape)}, "
                    f"the generator {expected.dtype} {list(expected.shape)}; export to another format"
                )
            difference = np.abs(found.astype(np.float64) - expected).max()
            # Unlike max, it keeps NaN.
            largest = float(np.maximum(largest, difference))
    return Difference(largest, float(bound), top)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Compute in float32, where a GPU would round to TensorFloat-32, which differs by more than the bound."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def _sizes(generator: keras.Model, takes_images: bool) -> Iterator[tuple[int, int, int]]:
    """Number, height and width of the images to compare."""
    height, width = generator.input_shape[1:3]
    multiple = size_multiple(generator)
    side = -(-32 // multiple) * multiple
    sizes = (
        ((2, 48, 64), (1, 37, 50), (1, 1, 2))
        if takes_images
        else ((2, side, side + multiple), (1, 2 * multiple + side, side))
    )
    for count, *sides in sizes:
        yield count, height or sides[0], width or sides[1]


def _new(output: Path, file_format: Format) -> AbstractContextManager[Path]:
    return replacing_folder(output) if file_format is SAVED_MODEL else replacing(output)
