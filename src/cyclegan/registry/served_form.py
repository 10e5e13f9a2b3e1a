"""The served form of a generator in the registry: an MLflow `pyfunc` model with its own code."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import cyclegan
from cyclegan.registry.onnx_flavor import add_onnx
from cyclegan.system.digests import code_digest
from cyclegan.tracking.provenance import installed

SERVED_BATCH = 8
# The imports of the served code. The model's requirements pin their installed versions.
REQUIREMENTS = ("tensorflow", "tensorflow-cpu", "keras", "mlflow", "numpy", "pandas", "pillow")
# The requirements of the ONNX file.
ONNX_REQUIREMENTS = ("onnx", "onnxruntime")


def save_served(
    path: Path, model: LoggedModel, generator: Path, channels: tuple[int, int], bit_depth: int, with_onnx: bool = False
) -> None:
    """Write the served form of a generator to the new folder `path`.

    Args:
        model: its MLflow model, with or without a run.
        generator: the `.keras` file.
        channels: those of the input and the output images.
        bit_depth: of the images, 8 (uint8) or 16 (uint16).
        with_onnx: whether to add an ONNX file, see `onnx_flavor.add_onnx`.
    """
    dtype = np.dtype(np.uint8 if bit_depth == 8 else np.uint16)
    with warnings.catch_warnings():
        # The signature replaces an example input.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=Model(
                artifact_path=model.artifact_location, run_id=model.source_run_id, model_id=model.model_id
            ),
            python_model=Path(__file__).with_name("served_model.py"),
            artifacts={"generator": generator.resolve().as_uri()},
            code_paths=[str(Path(cyclegan.__file__).parent)],
            model_config={"bit_depth": bit_depth, "batch_size": SERVED_BATCH},
            pip_requirements=_requirements(with_onnx),
            signature=ModelSignature(
                inputs=Schema([TensorSpec(dtype, (-1, -1, -1, channels[0]))]),
                outputs=Schema([TensorSpec(dtype, (-1, -1, -1, channels[1]))]),
            ),
        )
    if with_onnx:
        lineage = {"run_id": str(model.source_run_id), "model_id": model.model_id, **model.params}
        add_onnx(path, generator, bit_depth, lineage)


def content_digest(weights: str, bit_depth: int, with_onnx: bool = False) -> str:
    """The digest of weights, code and libraries, which determine the output of the served model.

    Args:
        weights: checksum of the `.keras` file.
        with_onnx: it has an ONNX file beside it.
    """
    folders = sorted({file.parent for file in Path(cyclegan.__file__).parent.rglob("*.py")})
    parts = [weights, *_requirements(with_onnx), str(bit_depth), code_digest(*folders)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _requirements(with_onnx: bool) -> list[str]:
    names = (*REQUIREMENTS, *ONNX_REQUIREMENTS) if with_onnx else REQUIREMENTS
    return [f"{name}=={version}" for name in names if (version := installed(name))]
