"""Command `translate`: translate image files with a generator from a file or from the registry."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.commands.model_argument import add_model, open_translator
from cyclegan.data.images.layout import endings, shown, walk
from cyclegan.system.errors import UserError

if TYPE_CHECKING:
    from cyclegan.data.images.image import ProfileUse

# Maximum number of file endings in a message.
MAX_ENDINGS = 8

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the model, the images and the output folder."""
    add_model(parser)
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders with their subfolders"
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FOLDER", help="folder for the PNG files")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files in FOLDER")


def run(options: argparse.Namespace) -> None:
    """Translate images, and the images in folders and their subfolders, to PNG files in `options.output`.

    Raises:
        UserError: the model or an image cannot be used, or a file would be overwritten.
    """
    from tqdm import tqdm

    from cyclegan.data.images.color_profile import describe_uses
    from cyclegan.inference.image_files import translate_files

    places: dict[Path, Path] = {}
    others: list[Path] = []
    for path in options.inputs:
        if path.is_dir():
            images, skipped = images_in(path, options.output)
            others += skipped
            for image in images:
                places.setdefault(path / image, image)
        else:
            places.setdefault(path, Path(path.name))
    translator = open_translator(options.model, options.bit_depth)
    if others:
        logger.warning("%s", _describe_skipped(others))
    profile_uses: Counter[ProfileUse] = Counter()
    try:
        # The delay keeps the progress bar out of early error messages.
        with tqdm(total=len(places), unit="image", delay=1) as bar:
            translate_files(
                translator,
                places,
                options.output,
                places=places.values(),
                overwrite=options.overwrite,
                on_read=lambda use: profile_uses.update([use]),
                on_written=lambda _: bar.update(),
            )
    finally:
        # Print this also if some images are unreadable.
        if phrases := describe_uses(profile_uses):
            print("; ".join(phrases))


def images_in(folder: Path, output: Path) -> tuple[list[Path], list[Path]]:
    """The images under a folder, by the rules of stage fetch, and the other files; relative to it, sorted.

    Files in `output` are skipped if it lies inside the folder, because earlier runs wrote them.

    Raises:
        UserError: the folder has no image.
    """
    files = walk(folder)
    top, written = folder.resolve(), output.resolve()
    is_inside = written != top and written.is_relative_to(top)

    def without_output(paths: Iterable[Path]) -> list[Path]:
        return sorted(p for p in paths if not (is_inside and (folder / p).parent.resolve().is_relative_to(written)))

    # Include broken images, whose faults are reported when they are read.
    images = without_output([*files.images, *(path for path, _ in files.broken)])
    others = without_output(files.others)
    if not images:
        rest = f"; {_describe_skipped(others)}" if others else ""
        raise UserError(f"{shown(folder)}: has no image ({endings()}){rest}")
    return images, others


def _describe_skipped(others: list[Path]) -> str:
    kinds = sorted({path.suffix.lower() or "none" for path in others})
    names = ", ".join(shown(kind) for kind in kinds[:MAX_ENDINGS]) + (", …" if len(kinds) > MAX_ENDINGS else "")
    noun = "file" if len(others) == 1 else "files"
    return f"{len(others)} {noun} skipped, not images by their ending: {names}"
