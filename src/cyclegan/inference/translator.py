"""Apply a generator to pictures of any size."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import cyclegan.models  # noqa: F401  (registers the layers that a .keras file names)
from cyclegan.data.loading.dataset import to_float, to_integer
from cyclegan.data.images.decode import BadImageError, decode
from cyclegan.data.images.layout import shown
from cyclegan.system.errors import UserError
from cyclegan.system.files import replacing
from cyclegan.system.memory import is_out_of_memory
from cyclegan.models.sizes import size_multiple

Column = np.ndarray | list[np.ndarray]
"""Pictures of one size, `[N, H, W, C]`, or of different sizes, each `[H, W, C]`."""

# A ResNet generator at its narrowest is a quarter of the input, and reflecting one pixel there needs two.
SMALLEST_SIDE = 8

PIXELS_AT_ONCE = 2**20
"""Pictures share a batch up to so many pixels: with 64 filters a generator wants about 1 GiB for them."""


class Translator:
    """A generator that takes pictures as they are stored and returns them as they are stored.

    Sides that the network cannot take are padded at the bottom and the right by reflection, and the result is cropped
    back. The generator's variables are read at every call, so one `Translator` serves a whole training.

    Args:
        generator: maps float images [N, H, W, C] in [-1, 1] to [N, H, W, C_out] in [-1, 1].
        bit_depth: of the stored pictures, 8 (uint8) or 16 (uint16).
        batch_size: pictures in one call of the network.
    """

    def __init__(self, generator: keras.Model, bit_depth: int = 8, batch_size: int = 8) -> None:
        if bit_depth not in (8, 16):
            raise UserError(f"bit_depth = {bit_depth}: pictures hold 8 or 16 bits a channel")
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: must be at least 1")
        self.channels: int = generator.input_shape[-1]
        self.channels_out: int = generator.output_shape[-1]
        self.bit_depth = bit_depth
        self.batch_size = batch_size
        self._multiple = size_multiple(generator)

        self._fixed_size: tuple[int | None, int | None] = generator.input_shape[1:3]

        # The signature leaves every size open that the generator leaves open: one trace serves all pictures.
        @tf.function(input_signature=[tf.TensorSpec([None, *generator.input_shape[1:]], tf.float32)])
        def run(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(generator(images, training=False), tf.float32)

        self._run = run

    @property
    def dtype(self) -> np.dtype:
        """Of stored pictures: uint8 or uint16."""
        return np.dtype(np.uint8 if self.bit_depth == 8 else np.uint16)

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Translate stored pictures.

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
        # np.pad reflects again and again where the padding is larger than the picture.
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
    """Apply a function of `[N, H, W, C]` to an array at once, and to a list of `[H, W, C]` picture by picture."""
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


@dataclass(frozen=True)
class _Picture:
    source: Path
    target: Path
    pixels: np.ndarray


def translate_files(
    translator: Translator,
    inputs: Iterable[Path],
    output: Path,
    *,
    places: Iterable[Path] | None = None,
    overwrite: bool = False,
    on_written: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Translate picture files into files of the same stem in folder `output`; pictures keep their own size.

    Grey, RGB and RGBA become PNG files, any other number of channels TIFF files.

    Nothing is written before every name is known to be free. Pictures are decoded and encoded in threads beside the
    network; consecutive pictures of one size share a batch, large ones go through the network one by one. A picture
    that cannot be read keeps no other from being translated.

    Args:
        inputs: picture files, of any form that `cyclegan.data.images.decode` decodes.
        output: made where it is missing.
        places: where below `output` each goes, such as `cats/1.jpg`, whose ending is replaced; None: its own name.
        overwrite: replace files that exist; an input is never replaced.
        on_written: called with each path once it is on disk, in the order of `inputs`.

    Returns:
        the written paths, in the order of `inputs`.

    Raises:
        UserError: a picture is missing, two would get one name, a target exists and `overwrite` is false, or the
            memory does not suffice for a picture; or, once all others are written, pictures are unreadable.
    """
    sources = list(inputs)
    below = [Path(source.name) for source in sources] if places is None else list(places)
    write, ending = (_write_png, "png") if translator.channels_out in (1, 3, 4) else (_write_tiff, "tif")
    targets = _targets(sources, below, output, ending, overwrite)
    unreadable: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        pictures = _decoded(pool, translator, sources, targets, unreadable)
        writing: list[tuple[Path, Future[None]]] = []
        for (height, width, _), group in itertools.groupby(pictures, key=lambda picture: picture.pixels.shape):
            together = max(1, min(translator.batch_size, PIXELS_AT_ONCE // (height * width)))
            while batch := list(itertools.islice(group, together)):
                with _room_for([picture.source for picture in batch], f" ({width}×{height} pixels)"):
                    translated = translator.translate(np.stack([picture.pixels for picture in batch]))
                _finish(writing, on_written)
                writing = [
                    (picture.target, pool.submit(write, picture.target, pixels))
                    for picture, pixels in zip(batch, translated, strict=True)
                ]
        _finish(writing, on_written)
    if unreadable:
        raise UserError(_told(unreadable, len(sources), output))
    return targets


def _targets(sources: list[Path], places: list[Path], output: Path, ending: str, overwrite: bool) -> list[Path]:
    targets: dict[Path, Path] = {}
    folders: set[Path] = set()
    originals = {source.resolve() for source in sources}
    for source, place in zip(sources, places, strict=True):
        target = output / place.parent / f"{place.stem}.{ending}"
        if not source.is_file():
            what = "is not a file" if source.exists() else "does not exist"
            raise UserError(f"{source}: {what}; name image files, or folders that hold some")
        for folder in {output / parent for parent in place.parents} - folders:
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is not a folder: choose another output folder")
            folders.add(folder)
        if target in targets:
            raise UserError(f"{targets[target]} and {source} would both become {target}: rename one of them")
        if target.resolve() in originals:
            raise UserError(f"{target} is itself a picture to translate: choose another output folder")
        if target.is_dir():
            raise UserError(f"{target} is a folder, where a file must go: choose another output folder")
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists already: choose another output folder, or replace files with --overwrite")
        targets[target] = source
    for target in sorted(folders & targets.keys()):
        raise UserError(f"{targets[target]} would become {target}, which must be a folder for others: rename it")
    return list(targets)


def _decoded(
    pool: ThreadPoolExecutor,
    translator: Translator,
    sources: list[Path],
    targets: list[Path],
    unreadable: dict[Path, str],
) -> Iterator[_Picture]:
    """Pictures in order, with at most two batches decoded before they are needed; what cannot be read is noted."""
    ahead: deque[tuple[Path, Path, Future[np.ndarray]]] = deque()
    coming = zip(sources, targets, strict=True)
    while True:
        for source, target in itertools.islice(coming, 2 * translator.batch_size + 1 - len(ahead)):
            ahead.append((source, target, pool.submit(decode, source, translator.channels, translator.bit_depth)))
        if not ahead:
            return
        source, target, future = ahead.popleft()
        try:
            with _room_for([source]):
                pixels = future.result()
        except BadImageError as reason:
            unreadable[source] = str(reason)
            continue
        yield _Picture(source, target, pixels)


@contextmanager
def _room_for(sources: Sequence[Path], size: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        names = ", ".join(shown(source) for source in sources)
        raise UserError(
            f"the memory does not suffice for {names}{size}: make {'it' if len(sources) == 1 else 'them'} smaller, "
            "or end what else uses the device"
        ) from error


def _told(unreadable: dict[Path, str], count: int, output: Path) -> str:
    lines = [f"{shown(source)} {shown(reason)}" for source, reason in unreadable.items()]
    if count == 1:
        return f"{lines[0]}; leave it out or save it again"
    rest = f"; all others are in {output}" if len(lines) < count else ""
    return f"{len(lines)} of {count} pictures cannot be read; leave them out or save them again{rest}\n" + "\n".join(
        f"  {line}" for line in lines
    )


def _finish(writing: list[tuple[Path, Future[None]]], on_written: Callable[[Path], None] | None) -> None:
    for target, future in writing:
        future.result()
        if on_written is not None:
            on_written(target)


def _write_png(target: Path, picture: np.ndarray) -> None:
    # TensorFlow's encoder rather than Pillow's, which has no 16-bit colour. Its default compression took most of a
    # translation's time beside a small network; this one takes a quarter of it, for files a fifth larger.
    encoded = tf.io.encode_png(picture, compression=1).numpy()
    with replacing(target) as temporary:
        temporary.write_bytes(encoded)


def _write_tiff(target: Path, picture: np.ndarray) -> None:
    with replacing(target) as temporary:
        # Not at the top: a served model has no need of it.
        import tifffile

        tifffile.imwrite(temporary, picture, photometric="minisblack", planarconfig="contig")
