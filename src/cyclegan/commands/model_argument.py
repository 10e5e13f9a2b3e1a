"""The argument MODEL of commands: a generator from a `.keras` file or from the registry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.system.errors import UserError

if TYPE_CHECKING:
    from cyclegan.models.translator import Translator


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, and the bit depth, which a file does not record."""
    parser.add_argument(
        "model", help="a .keras file, or a registered model such as models:/fluent-emoji-AtoB@challenger"
    )
    # No default here, because any value is an error for a registered model, which records its own depth.
    parser.add_argument(
        "--bit-depth",
        type=int,
        choices=(8, 16),
        help="bit depth of the images; pass 16 for a .keras file trained with data.bit_depth: 16 (default: 8)",
    )


def open_translator(model: str, bit_depth: int | None = None) -> Translator:
    """Load the generator of a `.keras` file or of the registry (`models:/…`).

    Args:
        bit_depth: of the images, only for a file, which does not record it; None: 8.

    Raises:
        UserError: the file or model is missing or cannot be loaded, or a depth is given for a registered model.
    """
    from cyclegan.models.translator import Translator, load_generator

    file, bit_depth = find_generator(model, bit_depth)
    return Translator(load_generator(file), bit_depth=bit_depth)


def find_generator(model: str, bit_depth: int | None = None) -> tuple[Path, int]:
    """The `.keras` file of MODEL, downloaded from the registry for `models:/…`, and the bit depth of its images.

    Args:
        bit_depth: of the images, only for a file, which does not record it; None: 8.

    Raises:
        UserError: there is no such registered model, or a depth is given for one.
    """
    if not model.startswith("models:/"):
        return Path(model), bit_depth or 8
    if bit_depth is not None:
        raise UserError(f"--bit-depth {bit_depth}: {model} records its own bit depth; remove --bit-depth")
    return _download(model)


def _download(uri: str) -> tuple[Path, int]:
    """Download a generator from the project's registry.

    Raises:
        UserError: there is no such model, version or alias, or this package did not register it.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from cyclegan.params import load
    from cyclegan.project import Project
    from cyclegan.tracking.store import open_store

    project = Project.find()
    store = open_store(project, load(project.params).tracking)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except MlflowException as error:
        raise UserError(
            f"{uri}: cannot be loaded from the registry of {store.display_uri} ({' '.join(str(error).split())}); "
            "'cyclegan registry list' lists the models; MLFLOW_TRACKING_URI or tracking.uri names another store"
        ) from None
    try:
        # Read the generator and its bit depth from the files of the served model, without the code for serving.
        # Do not use MLflow's Model.load, which reads a %2F in a path as a slash.
        description = YAML(typ="safe").load(folder / "MLmodel")
        bit_depth = description["flavors"]["python_function"]["config"]["bit_depth"]
        file = next(folder.rglob("*.keras"))
    except (FileNotFoundError, YAMLError, KeyError, TypeError, StopIteration):
        raise UserError(
            f"{uri}: not a generator of this project; use a version that stage register made ('cyclegan registry list')"
        ) from None
    return file, bit_depth
