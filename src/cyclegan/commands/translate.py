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
from cyclegan.system.arguments import positive_number
from cyclegan.system.errors import UserError

if TYPE_CHECKING:
    from cyclegan.data.images.image import DecodedImage, ProfileUse

# Maximum number of file endings in a message.
MAX_ENDINGS = 8

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the model, the images and the output folder."""
    add_model(parser)
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders with their subfolders"
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FOLDER", help="folder for the new files")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace existing files in FOLDER")
    existing.add_argument(
        "--resume",
        action="store_true",
        help="keep existing files in FOLDER, which an interrupted call wrote, and translate the other images",
    )
    parser.add_argument(
        "--resize",
        type=positive_number,
        metavar="N",
        help="resize each image first, so that its shorter side has N pixels (default: images keep their size)",
    )
    parser.add_argument(
        "--tile",
        type=tile_size,
        default="auto",
        metavar="auto|N|off",
        help="auto: large images in strips, with intermediate results in temporary files; N: all images in strips that "
        "need the memory of N×N pixels; off: no strips, 1 GiB per megapixel with 64 filters (default: auto)",
    )
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "webp", "tif"),
        help="format of the new files (default: png, or tif for images that PNG cannot store)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto: a GPU if there is one (default: auto)"
    )


def tile_size(text: str) -> str | int:
    """The value of `--tile`."""
    return text if text in ("auto", "off") else positive_number(text)


def run(options: argparse.Namespace) -> None:
    """Translate images, and the images in folders and their subfolders, to files in `options.output`.

    Raises:
        UserError: the model or an image cannot be used, or a file would be overwritten.
    """
    from tqdm import tqdm

    from cyclegan.commands.training_scale import ScaleNote
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
    _choose_device(options.device)
    translator = open_translator(options.model, options.bit_depth)
    note_scale = ScaleNote.of(options.model)
    if others:
        logger.warning("%s", _describe_skipped(others))
    profile_uses: Counter[ProfileUse] = Counter()

    def look(path: Path, image: DecodedImage) -> None:
        profile_uses.update([image.profile_use])
        note_scale(path, image.pixels.shape[:2])

    try:
        # The delay keeps the progress bar out of early error messages.
        with tqdm(total=len(places), unit="image", delay=1) as bar:
            translate_files(
                translator,
                places,
                options.output,
                places=places.values(),
                overwrite=options.overwrite,
                resume=options.resume,
                shorter_side=options.resize,
                tile=options.tile,
                file_format=options.format,
                on_read=look,
                on_written=lambda _: bar.update(),
            )
    finally:
        # Print this also if some images are unreadable.
        if phrases := describe_uses(profile_uses):
            print("; ".join(phrases))


def _choose_device(device: str) -> None:
    """Hide the GPUs for `cpu`. TensorFlow takes a GPU if it sees one.

    Raises:
        UserError: `gpu`, but there is none.
    """
    import tensorflow as tf

    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise UserError("--device gpu: TensorFlow finds no GPU; run 'cyclegan doctor', or leave it out")


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
