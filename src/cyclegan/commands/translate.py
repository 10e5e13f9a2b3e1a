"""Command `translate`: a generator from a file or from the registry, applied to picture files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from cyclegan.data.images.layout import endings, shown, walk
from cyclegan.inference.image_files import translate_files
from cyclegan.models.translator import Translator, load_generator
from cyclegan.system.errors import UserError

ENDINGS_SHOWN = 8


def run(model: str, inputs: Iterable[Path], output: Path, overwrite: bool, bit_depth: int | None = None) -> None:
    """Translate pictures, and the pictures in folders and their sub-folders, into PNG files in `output`.

    Raises:
        UserError: the model or a picture cannot be used, or a file would be overwritten.
    """
    places: dict[Path, Path] = {}
    others: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found, passed_over = pictures_in(path, output)
            others += passed_over
            for picture in found:
                places.setdefault(path / picture, picture)
        else:
            places.setdefault(path, Path(path.name))
    translator = open_translator(model, bit_depth)
    if others:
        print(f"cyclegan: {_passed_over(others)}", file=sys.stderr)
    # The delay leaves the line to what is wrong, if anything is.
    with tqdm(total=len(places), unit="picture", delay=1) as bar:
        translate_files(
            translator,
            places,
            output,
            places=places.values(),
            overwrite=overwrite,
            on_written=lambda _: bar.update(),
        )


def open_translator(model: str, bit_depth: int | None = None) -> Translator:
    """The generator of a `.keras` file, or of the registry (`models:/…`).

    Args:
        bit_depth: of the pictures, for a file, which does not say; None: 8.

    Raises:
        UserError: there is no such file or model, it cannot be loaded, or a depth is given for a registered model.
    """
    if not model.startswith("models:/"):
        return Translator(load_generator(Path(model)), bit_depth=bit_depth or 8)
    if bit_depth is not None:
        raise UserError(f"--bit-depth {bit_depth}: {model} knows its own bit depth; leave --bit-depth out")
    return registered_translator(model)


def pictures_in(folder: Path, output: Path) -> tuple[list[Path], list[Path]]:
    """The pictures under a folder that stage fetch would take too, and the other files, relative to it, by name.

    Where `output` lies inside the folder, what earlier runs wrote there is left out.

    Raises:
        UserError: there is nothing there to translate.
    """
    found = walk(folder)
    top, written = folder.resolve(), output.resolve()
    is_inside = written != top and written.is_relative_to(top)

    def sorted_out(paths: Iterable[Path]) -> list[Path]:
        return sorted(p for p in paths if not (is_inside and (folder / p).parent.resolve().is_relative_to(written)))

    # What is wrong with a picture is told when it is read.
    pictures = sorted_out([*found.images, *(path for path, _ in found.broken)])
    others = sorted_out(found.others)
    if not pictures:
        rest = f"; {_passed_over(others)}" if others else ""
        raise UserError(f"{shown(folder)} holds no picture ({endings()}){rest}")
    return pictures, others


def _passed_over(others: list[Path]) -> str:
    kinds = sorted({path.suffix.lower() or "none" for path in others})
    names = ", ".join(shown(kind) for kind in kinds[:ENDINGS_SHOWN]) + (", …" if len(kinds) > ENDINGS_SHOWN else "")
    files = "file" if len(others) == 1 else "files"
    return f"{len(others)} {files} passed over for having no picture's ending: {names}"


def registered_translator(uri: str) -> Translator:
    """Load a generator from the project's registry.

    Raises:
        UserError: there is no such model, version or alias, or it is none that this package registered.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    from cyclegan.params import load
    from cyclegan.project import Project
    from cyclegan.tracking.store import open_store

    project = Project.find()
    open_store(project, load(project.params).tracking)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except MlflowException as error:
        raise UserError(f"{uri} cannot be loaded from the registry: {' '.join(str(error).split())}") from None
    try:
        # The served form keeps the generator and its bit depth; its own code is for processes without this package.
        # Not by MLflow's Model.load, which reads a %2F in a path as a slash.
        described = YAML(typ="safe").load(folder / "MLmodel")
        bit_depth = described["flavors"]["python_function"]["config"]["bit_depth"]
        file = next(folder.rglob("*.keras"))
    except (FileNotFoundError, YAMLError, KeyError, TypeError, StopIteration):
        raise UserError(
            f"{uri} is no generator of this project: name a version that stage register made ('cyclegan registry list')"
        ) from None
    return Translator(load_generator(file), bit_depth=bit_depth)
