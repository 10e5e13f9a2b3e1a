"""Translate image files into image files."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclegan.data.images.decode import BadImageError, decode
from cyclegan.data.images.image import DecodedImage, ProfileUse
from cyclegan.data.images.layout import shown
from cyclegan.models.translator import Translator
from cyclegan.system.errors import UserError, is_out_of_memory
from cyclegan.system.files import replacing

PIXELS_AT_ONCE = 2**20
"""Largest number of pixels of a batch: a generator with 64 filters needs about 1 GiB for them."""


@dataclass(frozen=True)
class _Decoded:
    """A decoded image, and the target of its translation."""

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
    on_read: Callable[[ProfileUse], None] | None = None,
    on_written: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Translate image files into files of the same stem in folder `output`; images keep their size.

    Gray, RGB and RGBA become PNG files, all other numbers of channels TIFF files.

    All targets are checked before the first is written. Threads decode and encode images while the network runs.
    Consecutive images of one size share a batch, except large ones. Unreadable images do not stop the translation of
    the others.

    Args:
        inputs: image files of any format that `cyclegan.data.images.decode` supports.
        output: created if missing.
        places: path of each translation below `output`, such as `cats/1.jpg`, with a new extension; None: its name.
        overwrite: replace existing files; an input is never replaced.
        on_read: called for each readable image with the use of its color profile.
        on_written: called with each path after it is written, in the order of `inputs`.

    Returns:
        The written paths, in the order of `inputs`.

    Raises:
        UserError: an image is missing or does not fit into memory, two translations have one path, or a target exists
            and `overwrite` is false. Unreadable images raise it after all others are written.
    """
    sources = list(inputs)
    below = [Path(source.name) for source in sources] if places is None else list(places)
    write, ending = (_write_png, "png") if translator.channels_out in (1, 3, 4) else (_write_tiff, "tif")
    targets = _targets(sources, below, output, ending, overwrite)
    unreadable: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        images = _decoded(pool, translator, sources, targets, unreadable, on_read)
        writing: list[tuple[Path, Future[None]]] = []
        for (height, width, _), group in itertools.groupby(images, key=lambda image: image.pixels.shape):
            together = max(1, min(translator.batch_size, PIXELS_AT_ONCE // (height * width)))
            while batch := list(itertools.islice(group, together)):
                with _memory_errors([image.source for image in batch], f" ({width}×{height} pixels)"):
                    translated = translator.translate(np.stack([image.pixels for image in batch]))
                _finish(writing, on_written)
                writing = [
                    (image.target, pool.submit(write, image.target, pixels))
                    for image, pixels in zip(batch, translated, strict=True)
                ]
        _finish(writing, on_written)
    if unreadable:
        raise UserError(_unreadable_message(unreadable, len(sources), output))
    return targets


def _targets(sources: list[Path], places: list[Path], output: Path, ending: str, overwrite: bool) -> list[Path]:
    targets: dict[Path, Path] = {}
    folders: set[Path] = set()
    originals = {source.resolve() for source in sources}
    for source, place in zip(sources, places, strict=True):
        target = output / place.parent / f"{place.stem}.{ending}"
        if not source.is_file():
            what = "is not a file" if source.exists() else "does not exist"
            raise UserError(f"{source}: {what}; name image files or folders with images")
        for folder in {output / parent for parent in place.parents} - folders:
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder}: is not a folder; choose another output folder")
            folders.add(folder)
        if target in targets:
            raise UserError(f"{targets[target]} and {source}: would both become {target}; rename one of them")
        if target.resolve() in originals:
            raise UserError(f"{target}: is itself an image to translate; choose another output folder")
        if target.is_dir():
            raise UserError(f"{target}: is a folder, but must be a file; choose another output folder")
        if target.exists() and not overwrite:
            raise UserError(f"{target}: exists already; choose another output folder, or replace it with --overwrite")
        targets[target] = source
    for target in sorted(folders & targets.keys()):
        raise UserError(f"{targets[target]}: would become {target}, which must be a folder for other images; rename it")
    return list(targets)


def _decoded(
    pool: ThreadPoolExecutor,
    translator: Translator,
    sources: list[Path],
    targets: list[Path],
    unreadable: dict[Path, str],
    on_read: Callable[[ProfileUse], None] | None,
) -> Iterator[_Decoded]:
    """Yield images in order, with at most two batches decoded in advance. Unreadable ones go to `unreadable`."""
    ahead: deque[tuple[Path, Path, Future[DecodedImage]]] = deque()
    coming = zip(sources, targets, strict=True)
    while True:
        for source, target in itertools.islice(coming, 2 * translator.batch_size + 1 - len(ahead)):
            ahead.append((source, target, pool.submit(decode, source, translator.channels, translator.bit_depth)))
        if not ahead:
            return
        source, target, future = ahead.popleft()
        try:
            with _memory_errors([source]):
                image = future.result()
        except BadImageError as reason:
            unreadable[source] = str(reason)
            continue
        if on_read is not None:
            on_read(image.profile_use)
        yield _Decoded(source, target, image.pixels)


@contextmanager
def _memory_errors(sources: Sequence[Path], size: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        names = ", ".join(shown(source) for source in sources)
        raise UserError(
            f"{names}: out of memory{size}; make {'it' if len(sources) == 1 else 'them'} smaller, or end other "
            "programs on the device"
        ) from error


def _unreadable_message(unreadable: dict[Path, str], count: int, output: Path) -> str:
    lines = [f"{shown(source)}: {shown(reason)}" for source, reason in unreadable.items()]
    if count == 1:
        return f"{lines[0]}; leave it out or save it again"
    rest = f"; all others are in {output}" if len(lines) < count else ""
    return f"{len(lines)} of {count} images cannot be read; leave them out or save them again{rest}\n" + "\n".join(
        f"  {line}" for line in lines
    )


def _finish(writing: list[tuple[Path, Future[None]]], on_written: Callable[[Path], None] | None) -> None:
    for target, future in writing:
        future.result()
        if on_written is not None:
            on_written(target)


def _write_png(target: Path, image: np.ndarray) -> None:
    # Use TensorFlow's encoder, because Pillow has no 16-bit color. With a small network, the default compression takes
    # most of the time. This one takes a quarter of it, and files are a fifth larger.
    encoded = tf.io.encode_png(image, compression=1).numpy()
    with replacing(target) as temporary:
        temporary.write_bytes(encoded)


def _write_tiff(target: Path, image: np.ndarray) -> None:
    with replacing(target) as temporary:
        # Imported here, because a server does not need it.
        import tifffile

        tifffile.imwrite(temporary, image, photometric="minisblack", planarconfig="contig")
