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
"""Images share a batch up to so many pixels: with 64 filters a generator wants about 1 GiB for them."""


@dataclass(frozen=True)
class _Decoded:
    """An image, and where its translation goes."""

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
    """Translate image files into files of the same stem in folder `output`; images keep their own size.

    Gray, RGB and RGBA become PNG files, any other number of channels TIFF files.

    Nothing is written before every name is known to be free. Images are decoded and encoded in threads beside the
    network; consecutive images of one size share a batch, large ones go through the network one by one. An image
    that cannot be read keeps no other from being translated.

    Args:
        inputs: image files, of any form that `cyclegan.data.images.decode` decodes.
        output: made where it is missing.
        places: where below `output` each goes, such as `cats/1.jpg`, whose ending is replaced; None: its own name.
        overwrite: replace files that exist; an input is never replaced.
        on_read: called for each image that could be read, with what came of its color profile.
        on_written: called with each path once it is on disk, in the order of `inputs`.

    Returns:
        the written paths, in the order of `inputs`.

    Raises:
        UserError: an image is missing, two would get one name, a target exists and `overwrite` is false, or the
            memory does not suffice for an image; or, once all others are written, images are unreadable.
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
                with _room_for([image.source for image in batch], f" ({width}×{height} pixels)"):
                    translated = translator.translate(np.stack([image.pixels for image in batch]))
                _finish(writing, on_written)
                writing = [
                    (image.target, pool.submit(write, image.target, pixels))
                    for image, pixels in zip(batch, translated, strict=True)
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
            raise UserError(f"{target} is itself an image to translate: choose another output folder")
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
    on_read: Callable[[ProfileUse], None] | None,
) -> Iterator[_Decoded]:
    """Images in order, with at most two batches decoded before they are needed; what cannot be read is noted."""
    ahead: deque[tuple[Path, Path, Future[DecodedImage]]] = deque()
    coming = zip(sources, targets, strict=True)
    while True:
        for source, target in itertools.islice(coming, 2 * translator.batch_size + 1 - len(ahead)):
            ahead.append((source, target, pool.submit(decode, source, translator.channels, translator.bit_depth)))
        if not ahead:
            return
        source, target, future = ahead.popleft()
        try:
            with _room_for([source]):
                image = future.result()
        except BadImageError as reason:
            unreadable[source] = str(reason)
            continue
        if on_read is not None:
            on_read(image.profile_use)
        yield _Decoded(source, target, image.pixels)


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
    return f"{len(lines)} of {count} images cannot be read; leave them out or save them again{rest}\n" + "\n".join(
        f"  {line}" for line in lines
    )


def _finish(writing: list[tuple[Path, Future[None]]], on_written: Callable[[Path], None] | None) -> None:
    for target, future in writing:
        future.result()
        if on_written is not None:
            on_written(target)


def _write_png(target: Path, image: np.ndarray) -> None:
    # TensorFlow's encoder rather than Pillow's, which has no 16-bit color. Its default compression took most of a
    # translation's time beside a small network; this one takes a quarter of it, for files a fifth larger.
    encoded = tf.io.encode_png(image, compression=1).numpy()
    with replacing(target) as temporary:
        temporary.write_bytes(encoded)


def _write_tiff(target: Path, image: np.ndarray) -> None:
    with replacing(target) as temporary:
        # Not at the top: a served model has no need of it.
        import tifffile

        tifffile.imwrite(temporary, image, photometric="minisblack", planarconfig="contig")
