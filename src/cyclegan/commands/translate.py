"""Command `translate`: a generator from a file or from the registry, applied to image files."""

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

# So many different endings are named at most.
ENDINGS_SHOWN = 8

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the images, and where the translated ones go."""
    add_model(parser)
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders, sub-folders included"
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FOLDER", help="where the PNG files go")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist in FOLDER")


def run(options: argparse.Namespace) -> None:
    """Translate images, and the images in folders and their sub-folders, into PNG files in `options.output`.

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
            found, passed_over = images_in(path, options.output)
            others += passed_over
            for image in found:
                places.setdefault(path / image, image)
        else:
            places.setdefault(path, Path(path.name))
    translator = open_translator(options.model, options.bit_depth)
    if others:
        logger.warning("%s", _passed_over(others))
    profile_uses: Counter[ProfileUse] = Counter()
    try:
        # The delay leaves the line to what is wrong, if anything is.
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
        # Also where others are unreadable.
        if phrases := describe_uses(profile_uses):
            print("; ".join(phrases))


def images_in(folder: Path, output: Path) -> tuple[list[Path], list[Path]]:
    """The images under a folder that stage fetch would take too, and the other files, relative to it, by name.

    Where `output` lies inside the folder, what earlier runs wrote there is left out.

    Raises:
        UserError: there is nothing there to translate.
    """
    found = walk(folder)
    top, written = folder.resolve(), output.resolve()
    is_inside = written != top and written.is_relative_to(top)

    def sorted_out(paths: Iterable[Path]) -> list[Path]:
        return sorted(p for p in paths if not (is_inside and (folder / p).parent.resolve().is_relative_to(written)))

    # What is wrong with an image is reported when it is read.
    images = sorted_out([*found.images, *(path for path, _ in found.broken)])
    others = sorted_out(found.others)
    if not images:
        rest = f"; {_passed_over(others)}" if others else ""
        raise UserError(f"{shown(folder)} holds no image ({endings()}){rest}")
    return images, others


def _passed_over(others: list[Path]) -> str:
    kinds = sorted({path.suffix.lower() or "none" for path in others})
    names = ", ".join(shown(kind) for kind in kinds[:ENDINGS_SHOWN]) + (", …" if len(kinds) > ENDINGS_SHOWN else "")
    files = "file" if len(others) == 1 else "files"
    return f"{len(others)} {files} passed over for having no image's ending: {names}"
