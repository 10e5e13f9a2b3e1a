"""The generator file of a registered model."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cyclegan.system.errors import UserError


def download(uri: str, store: str) -> tuple[Path, int]:
    """Download a generator from the registry of the opened store.

    Args:
        uri: such as `models:/NAME/1` or `models:/NAME@champion`.
        store: the address of the store, for messages.

    Returns:
        The `.keras` file, and the bit depth of its images.

    Raises:
        UserError: there is no such model, version or alias, or this package did not register it.
    """
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except MlflowException as error:
        raise UserError(
            f"{uri}: cannot be loaded from the registry of {store} ({' '.join(str(error).split())}); "
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
