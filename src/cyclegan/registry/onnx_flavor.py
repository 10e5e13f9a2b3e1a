"""A registered generator as an ONNX model, too."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from mlflow.models import Model

from cyclegan.system.digests import file_digest
from cyclegan.system.quiet_tensorflow import import_tensorflow

FILE = "model.onnx"


def prepare_export() -> None:
    """Import what `add_onnx` needs, before anything is registered.

    Raises:
        UserError: the packages are not installed.
    """
    import_tensorflow(fuse=False)
    from cyclegan.export.formats import ONNX

    ONNX.require()


def add_onnx(folder: Path, generator: Path, bit_depth: int, lineage: Mapping[str, str]) -> None:
    """Put an ONNX file into a saved MLflow model, where `mlflow.onnx.load_model` finds it.

    What `mlflow.pyfunc.load_model` loads stays as it is.

    Args:
        folder: of the MLflow model.
        generator: its `.keras` file.
        bit_depth: of the images, 8 (uint8) or 16 (uint16).
        lineage: for the file's metadata.

    Raises:
        UserError: the packages are not installed, or the file would differ from the generator.
    """
    # Not at the top: most versions are registered without TensorFlow.
    from cyclegan.export.exporter import export
    from cyclegan.export.formats import ONNX
    from cyclegan.models.translator import load_generator

    lineage = {**lineage, "model.sha256": file_digest(generator)}
    export(load_generator(generator), folder / FILE, ONNX, bit_depth=bit_depth, lineage=lineage)
    model = Model.load(folder)
    # As mlflow.onnx.save_model writes it.
    model.add_flavor(
        "onnx",
        onnx_version=version("onnx"),
        data=FILE,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    model.save(folder / "MLmodel")
