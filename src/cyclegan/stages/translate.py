"""Command `translate`: a generator from a file or from the registry, applied to picture files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from cyclegan.errors import UserError
from cyclegan.inference.translate import Translator, load_generator, translate_files

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def run(model: str, inputs: Iterable[Path], output: Path, overwrite: bool, bit_depth: int | None = None) -> None:
    """Translate pictures, and the pictures in folders, into PNG files in `output`.

    Raises:
        UserError: the model or a picture cannot be used, or a file would be overwritten.
    """
    pictures = [picture for path in inputs for picture in pictures_in(path)]
    translator = open_translator(model, bit_depth)
    # The delay leaves the line to what is wrong, if anything is.
    with tqdm(total=len(pictures), unit="picture", delay=1) as bar:
        translate_files(translator, pictures, output, overwrite=overwrite, on_written=lambda _: bar.update())


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


def pictures_in(path: Path) -> list[Path]:
    """The file itself, or the picture files of a folder, by name.

    Raises:
        UserError: there is nothing there to translate.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    if not found:
        raise UserError(f"{path} holds no pictures ({', '.join(sorted(PICTURES))})")
    return found


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
        bit_depth = mlflow.models.Model.load(folder).flavors["python_function"]["config"]["bit_depth"]
        file = next(folder.rglob("*.keras"))
    except (MlflowException, KeyError, TypeError, StopIteration):
        raise UserError(
            f"{uri} is no generator of this project: name a version that stage register made ('cyclegan registry list')"
        ) from None
    return Translator(load_generator(file), bit_depth=bit_depth)
