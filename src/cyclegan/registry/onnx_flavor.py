"""The ONNX file of a registered generator."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from mlflow.models import Model

from cyclegan.system.digests import file_digest
from cyclegan.system.quiet_tensorflow import import_tensorflow

FILE = "model.onnx"


def prepare_export() -> None:
    """Import the packages of `add_onnx`, before a version is registered.

    Raises:
        UserError: the packages are not installed.
    """
    import_tensorflow(fuse=False)
    from cyclegan.export.formats import ONNX

    ONNX.require()


def add_onnx(folder: Path, generator: Path, bit_depth: int, lineage: Mapping[str, str]) -> None:
    """Add an ONNX file to a saved MLflow model, for `mlflow.onnx.load_model`.

    `mlflow.pyfunc.load_model` still loads the same model.

    Args:
        folder: the folder of the MLflow model.
        generator: the `.keras` file.
        bit_depth: of the images, 8 (uint8) or 16 (uint16).
        lineage: entries for the file's metadata.

    Raises:
        UserError: the packages are not installed, or the outputs of the file differ from those of the generator.
    """
    # Import here: most versions are registered without TensorFlow.
    from cyclegan.export.exporter import export
    from cyclegan.export.formats import ONNX
    from cyclegan.models.translator import load_generator

    lineage = {**lineage, "model.sha256": file_digest(generator)}
    export(load_generator(generator), folder / FILE, ONNX, bit_depth=bit_depth, lineage=lineage)
    model = Model.load(folder)
    # Write the flavor as mlflow.onnx.save_model does.
    model.add_flavor(
        "onnx",
        onnx_version=version("onnx"),
        data=FILE,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    model.save(folder / "MLmodel")
