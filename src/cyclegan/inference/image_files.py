"""Translate image files into image files."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cyclegan.data.images.decode import BadImageError, decode, resize
from cyclegan.data.images.image import DecodedImage
from cyclegan.data.images.layout import shown
from cyclegan.inference.image_writers import writer
from cyclegan.inference.strips import Tile, translate
from cyclegan.models.translator import Translator
from cyclegan.system.errors import UserError, is_out_of_memory

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
    resume: bool = False,
    shorter_side: int | None = None,
    tile: Tile = "auto",
    file_format: str | None = None,
    on_read: Callable[[Path, DecodedImage], None] | None = None,
    on_written: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Translate image files into files of the same stem in folder `output`.

    All targets are checked before the first is written. Threads decode and encode images while the network runs.
    Consecutive images of one size share a batch, except large ones. Unreadable images do not stop the translation of
    the others.

    Args:
        inputs: image files of any format that `cyclegan.data.images.decode` supports.
        output: created if missing.
        places: path of each translation below `output`, such as `cats/1.jpg`, with a new extension; None: its name.
        overwrite: replace existing files; an input is never replaced.
        resume: keep existing files, which an interrupted call wrote, and translate only the other images.
        shorter_side: resize each image to this shorter side in pixels; None: images keep their size.
        tile, file_format: see `strips.translate` and `image_writers.writer`.
        on_read: called for each readable image with its path.
        on_written: called with each path after it is written, in the order of `inputs`.

    Returns:
        The paths of all translations, in the order of `inputs`.

    Raises:
        UserError: an image is missing or does not fit into memory, two translations have one path, or a target exists
            and neither `overwrite` nor `resume` is true. Unreadable images raise it after all others are written.
    """
    sources = list(inputs)
    below = [Path(source.name) for source in sources] if places is None else list(places)
    ending, write = writer(file_format, translator.channels_out, translator.bit_depth)
    targets = _targets(sources, below, output, ending, overwrite or resume)
    waiting = [pair for pair in zip(sources, targets, strict=True) if not (resume and pair[1].exists())]
    unreadable: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        images = _decoded(pool, translator, waiting, shorter_side, unreadable, on_read)
        writing: list[tuple[Path, Future[None]]] = []
        for batch in _batches(images, translator.batch_size):
            height, width = batch[0].pixels.shape[:2]
            with _memory_errors([image.source for image in batch], f" ({width}×{height} pixels)"):
                translated = translate(translator, np.stack([image.pixels for image in batch]), tile)
            _finish(writing, on_written)
            writing = [
                (image.target, pool.submit(write, image.target, pixels))
                for image, pixels in zip(batch, translated, strict=True)
            ]
        _finish(writing, on_written)
    if unreadable:
        raise UserError(_unreadable_message(unreadable, len(sources), output))
    return targets


def _targets(sources: list[Path], places: list[Path], output: Path, ending: str, may_exist: bool) -> list[Path]:
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
        if target.exists() and not may_exist:
            raise UserError(f"{target}: exists already; replace it with --overwrite, or keep it with --resume")
        targets[target] = source
    for target in sorted(folders & targets.keys()):
        raise UserError(f"{targets[target]}: would become {target}, which must be a folder for other images; rename it")
    return list(targets)


def _decoded(
    pool: ThreadPoolExecutor,
    translator: Translator,
    waiting: list[tuple[Path, Path]],
    shorter_side: int | None,
    unreadable: dict[Path, str],
    on_read: Callable[[Path, DecodedImage], None] | None,
) -> Iterator[_Decoded]:
    """Yield images in order. Unreadable ones go to `unreadable`.

    At most two batches of small images, or two large images, are decoded in advance.
    """
    ahead: deque[tuple[Path, Path, Future[DecodedImage]]] = deque()
    coming, most = iter(waiting), 2
    while True:
        for source, target in itertools.islice(coming, max(0, most - len(ahead))):
            ahead.append((source, target, pool.submit(_read, source, translator, shorter_side)))
        if not ahead:
            return
        source, target, future = ahead.popleft()
        try:
            with _memory_errors([source]):
                image = future.result()
        except BadImageError as reason:
            unreadable[source] = str(reason)
            continue
        is_large = image.pixels.size > translator.channels * PIXELS_AT_ONCE
        most = 2 if is_large else 2 * translator.batch_size + 1
        if on_read is not None:
            on_read(source, image)
        yield _Decoded(source, target, image.pixels)


def _batches(images: Iterable[_Decoded], batch_size: int) -> Iterator[list[_Decoded]]:
    """Consecutive images of one size, at most `batch_size` and not more than `PIXELS_AT_ONCE` together."""
    for (height, width, _), group in itertools.groupby(images, key=lambda image: image.pixels.shape):
        together = max(1, min(batch_size, PIXELS_AT_ONCE // (height * width)))
        while batch := list(itertools.islice(group, together)):
            yield batch


def _read(source: Path, translator: Translator, shorter_side: int | None) -> DecodedImage:
    """Decode an image, and resize it so that its shorter side has this number of pixels; None: keep its size."""
    image = decode(source, translator.channels, translator.bit_depth)
    if shorter_side is None:
        return image
    sides = image.pixels.shape[:2]
    height, width = (max(1, round(side * shorter_side / min(sides))) for side in sides)
    return replace(image, pixels=resize(image.pixels, (height, width)))


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
