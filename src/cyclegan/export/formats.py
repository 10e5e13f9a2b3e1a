"""The three formats: how each is written, and how its file is run."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cyclegan.export.graphs import INPUT, OUTPUT
from cyclegan.system.errors import UserError, one_line
from cyclegan.system.quiet_tensorflow import held_back_stderr

Run = Callable[[np.ndarray], np.ndarray]
"""Images [N, H, W, C] through an exported file."""

# ONNX Runtime reads it since version 1.12 (2022).
OPSET = 17
# Of the metadata, in a .tflite file and in a SavedModel.
METADATA_FILE = "cyclegan.json"


@dataclass(frozen=True)
class Format:
    """One way to write a generator.

    Attributes:
        name: for messages.
        takes_images: the file takes and returns stored images of any size; else it holds the bare network only.
        write: writes a `tf.function` of the generator, with metadata, to a path.
        load: opens the file that `write` made.
        needs: the modules that writing and running it imports, beside TensorFlow.
    """

    name: str
    takes_images: bool
    write: Callable[[keras.Model, Any, Path, Mapping[str, str]], None]
    load: Callable[[Path], Run]
    needs: tuple[str, ...] = ()

    def require(self) -> None:
        """Check that the packages of the format are installed.

        Raises:
            UserError: one is not.
        """
        for module in self.needs:
            try:
                import_module(module)
            except ImportError as error:
                raise UserError(
                    f"{self.name}: Python module {error.name or module} is not installed; "
                    "run pip install 'cyclegan[export]'"
                ) from None


def write_onnx(generator: keras.Model, graph: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file with named input, output and sizes."""
    import onnx
    import tf2onnx

    # It logs each operation that it cannot convert; the check below names the first.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    model, _ = tf2onnx.convert.from_function(graph, graph.input_signature, opset=OPSET)
    names = ("batch", "height", "width", None)
    shapes = (generator.input_shape, generator.output_shape)
    for value, shape in zip((*model.graph.input, *model.graph.output), shapes, strict=True):
        for dimension, name, side in zip(value.type.tensor_type.shape.dim, names, (None, *shape[1:]), strict=True):
            # tf2onnx invents names such as unk__1006.
            if side is None:
                dimension.dim_param = name
            else:
                dimension.dim_value = side
    # What is known of sizes in between repeats the invented names.
    del model.graph.value_info[:]
    model.producer_name = "cyclegan"
    onnx.helper.set_model_props(model, dict(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise _cannot_hold("ONNX", one_line(error)) from error
    onnx.save(model, path)


def load_onnx(path: Path) -> Run:
    """Open an ONNX file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def write_litert(generator: keras.Model, graph: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a LiteRT file with float32 weights."""
    _write_litert(graph, path, metadata, half=False)


def write_litert_half(generator: keras.Model, graph: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a LiteRT file with float16 weights: half the size."""
    _write_litert(graph, path, metadata, half=True)


def _write_litert(graph: Any, path: Path, metadata: Mapping[str, str], half: bool) -> None:
    # Not over a SavedModel, as the converter's warning recommends and Keras does: that keeps an operation of our layers
    # that LiteRT does not have.
    logging.getLogger("absl").setLevel(logging.ERROR)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    try:
        converted = converter.convert()
    # The converter's class of error is private. Its text is a traceback with the names of the operations in it.
    except Exception as error:
        missing = sorted(set(re.findall(r"'(tf\.\w+)'", str(error))))
        raise _cannot_hold("LiteRT", ", ".join(missing) or one_line(error)) from error
    path.write_bytes(converted)
    # LiteRT's way to put files into a model: a zip archive behind it, which the runtime does not read.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_FILE, _json(metadata))


def load_litert(path: Path) -> Run:
    """Open a LiteRT file in TensorFlow's interpreter."""
    with warnings.catch_warnings():
        # It will move to a package of its own.
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(str(path))
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(source, images.shape)
        # It prints its choice of kernels.
        with held_back_stderr():
            interpreter.allocate_tensors()
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def write_saved_model(generator: keras.Model, graph: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a SavedModel into an empty folder."""
    # Keras' own export stores the weights twice.
    module = tf.Module()
    module.weights = [variable.value for variable in generator.variables]
    tf.saved_model.save(module, str(path), signatures=graph.get_concrete_function())
    extra = path / "assets.extra" / METADATA_FILE
    extra.parent.mkdir(exist_ok=True)
    extra.write_text(_json(metadata), encoding="utf-8")


def load_saved_model(path: Path) -> Run:
    """Open a SavedModel in TensorFlow."""
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda images: serve(**{INPUT: tf.constant(images)})[OUTPUT].numpy()


def _cannot_hold(name: str, reason: str) -> UserError:
    """For the operations that a network of another program may have. All of ours can be exported."""
    return UserError(f"{name}: cannot hold this generator ({reason[:100]}); export a SavedModel")


def _json(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), indent=2) + "\n"


ONNX = Format("ONNX", True, write_onnx, load_onnx, needs=("onnx", "tf2onnx", "onnxruntime"))
LITERT = Format("LiteRT", False, write_litert, load_litert)
LITERT_HALF = Format("LiteRT, float16", False, write_litert_half, load_litert)
SAVED_MODEL = Format("SavedModel", True, write_saved_model, load_saved_model)
