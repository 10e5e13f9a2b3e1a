"""Generators saved by Keras 2 with keras-contrib's InstanceNormalization (`generator.save("name.h5")`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from cyclegan.models.normalization import ContribInstanceNormalization
from cyclegan.system.errors import UserError, one_line

Weights = dict[str, list[np.ndarray]]


class _UnreadableError(Exception):
    """Why a file cannot be read."""


@dataclass(frozen=True)
class _Kind:
    """How to rebuild one class of layer: from these keys of its configuration and no others."""

    make: type[keras.layers.Layer]
    keys: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    only: dict[str, Any] = field(default_factory=dict)
    """Keys that are dropped because nothing but this value is supported."""


_CONV = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias")

_KINDS = {
    "Activation": _Kind(keras.layers.Activation, ("activation",)),
    "Add": _Kind(keras.layers.Add),
    "BatchNormalization": _Kind(keras.layers.BatchNormalization, ("axis", "momentum", "epsilon", "center", "scale")),
    "Concatenate": _Kind(keras.layers.Concatenate, ("axis",)),
    "Conv2D": _Kind(keras.layers.Conv2D, (*_CONV, "groups")),
    "Conv2DTranspose": _Kind(keras.layers.Conv2DTranspose, (*_CONV, "output_padding"), only={"groups": 1}),
    "Dropout": _Kind(keras.layers.Dropout, ("rate",), only={"noise_shape": None}),
    "InstanceNormalization": _Kind(ContribInstanceNormalization, ("axis", "epsilon", "center", "scale")),
    "LeakyReLU": _Kind(keras.layers.LeakyReLU, renamed={"alpha": "negative_slope"}),
    "ReLU": _Kind(keras.layers.ReLU, ("max_value", "negative_slope", "threshold")),
    # Bilinear interpolation placed the pixels differently in different versions of Keras 2.
    "UpSampling2D": _Kind(keras.layers.UpSampling2D, ("size",), only={"interpolation": "nearest"}),
    "ZeroPadding2D": _Kind(keras.layers.ZeroPadding2D, ("padding",)),
}

_NAMES = ("activation", "padding")
"""The options that are text."""

_ACTIVATIONS = ("linear", "relu", "elu", "selu", "sigmoid", "tanh")

# What shapes only the training that the file comes from, or says what is checked elsewhere.
_WITHOUT_EFFECT = re.compile(
    r"\w+_(initializer|regularizer|constraint)|name|trainable|dtype|batch_input_shape|seed|fused|renorm|synchronized"
)


def load_legacy_generator(path: Path) -> keras.Model:
    """Read a generator from a whole-model HDF5 file of Keras 2, keras-contrib's normalization included.

    The file is data: its layers are rebuilt from a list of known classes and plain values, so nothing in it is
    executed, unpickled or imported, and nothing is taken from other files. Initializers, regularizers and
    constraints are not taken over. The result accepts images of any size, in [-1, 1], and can be saved as `.keras`.

    Args:
        path: file written by `generator.save("name.h5")` with Keras 2.2 or later.

    Returns:
        A model with one input and one output, `(batch, height, width, channels)`, ending in tanh.

    Raises:
        UserError: the file is not HDF5, is corrupt, holds no model, or a model that is not a generator made of
            the known layers; the message names the file and the reason.
    """
    try:
        config, weights = _read(path)
        return _build(config, weights)
    except _UnreadableError as reason:
        raise UserError(f"{path}: {reason}; expected a generator that Keras 2 saved whole with model.save()") from None


def _read(path: Path) -> tuple[dict[str, Any], Weights]:
    """Return the model's description and the weights by layer name."""
    if not path.is_file():
        raise _UnreadableError("no such file")
    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise _UnreadableError("holds no model_config (only weights?)")
            config = json.loads(file.attrs["model_config"])
            groups = file["model_weights"]
            return config, {name: list(_arrays(groups[name], file)) for name in groups}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RuntimeError, RecursionError) as error:
        kind = "is corrupt" if h5py.is_hdf5(path) else "is not an HDF5 file"
        raise _UnreadableError(f"{kind} ({one_line(error)[:200]})") from None


def _arrays(group: h5py.Group, file: h5py.File) -> Iterator[np.ndarray]:
    for name in group.attrs["weight_names"]:
        dataset = group[name]
        # HDF5 can point into other files, and can claim more values than it stores.
        if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
            raise _UnreadableError(f"weight {dataset.name!r} points to another file")
        if dataset.id.get_storage_size() < dataset.nbytes:
            raise _UnreadableError(f"weight {dataset.name!r} is incomplete")
        yield dataset[()]


def _build(config: dict[str, Any], weights: Weights) -> keras.Model:
    try:
        if config["class_name"] not in ("Model", "Functional"):
            raise _UnreadableError(f"holds a model of class {config['class_name']!r}, not a functional one")
        model, size = _connect(config["config"], weights)
        is_image = len(model.output_shape) == 4
        if not is_image or model.compute_output_shape((1, *size, model.input_shape[-1]))[1:3] != size:
            raise _UnreadableError("the output is not an image of the input's size, so this is not a generator")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise _UnreadableError(
            f"its description of the model does not fit together ({one_line(error)[:200]})"
        ) from None
    if getattr(model.layers[-1], "activation", None) is not keras.activations.tanh:
        raise _UnreadableError("the last layer is not tanh, so the outputs are not images in [-1, 1]")
    return model


def _connect(config: dict[str, Any], weights: Weights) -> tuple[keras.Model, tuple[int, int]]:
    """Call each layer on its inputs; return the model and the image size (height, width) it was made for."""
    outputs: dict[str, Any] = {}
    sizes: list[tuple[int, int]] = []
    for entry in config["layers"]:
        kind, name, nodes = entry["class_name"], entry["name"], entry["inbound_nodes"]
        if name in outputs:
            raise _UnreadableError(f"two layers are called {name!r}")
        if kind == "InputLayer":
            shape = entry["config"]["batch_input_shape"]
            if len(shape) != 4 or not isinstance(shape[-1], int):
                raise _UnreadableError(f"the input has the shape {shape}, not (batch, height, width, channels)")
            sizes.append((shape[1] or 256, shape[2] or 256))
            outputs[name] = keras.Input((None, None, shape[-1]), name=_plain_name(name))
            continue
        if len(nodes) != 1 or any(len(source) > 3 and source[3] for source in nodes[0]):
            raise _UnreadableError(f"layer {name!r} is called more than once or with options")
        layer = _layer(kind, name, entry["config"])
        arrays = weights.get(name, [])
        _check_filters(layer, arrays)
        inputs = [outputs[source[0]] for source in nodes[0]]
        outputs[name] = layer(inputs[0] if len(inputs) == 1 else inputs)
        if [weight.shape for weight in layer.weights] != [array.shape for array in arrays]:
            raise _UnreadableError(f"the weights of layer {name!r} do not have the shapes of its description")
        layer.set_weights(arrays)
    (start,), (end,) = _ends(config["input_layers"]), _ends(config["output_layers"])
    return keras.Model(outputs[start], outputs[end], name=_plain_name(config["name"])), sizes[0]


def _layer(kind: str, name: str, config: dict[str, Any]) -> keras.layers.Layer:
    if kind == "Lambda":
        raise _UnreadableError(f"layer {name!r} is a Lambda, which holds program code and is never loaded")
    if kind not in _KINDS:
        raise _UnreadableError(f"layer {name!r} has the unknown class {kind!r}")
    known = _KINDS[kind]
    options = {}
    for key, value in config.items():
        if key in known.keys or key in known.renamed:
            options[known.renamed.get(key, key)] = _plain_value(name, key, value)
        elif key == "data_format":
            if value != "channels_last":
                raise _UnreadableError(f"layer {name!r} has its channels first; only channels last is supported")
        elif key in known.only:
            if value != known.only[key]:
                raise _UnreadableError(f"layer {name!r} has {key} = {value!r}; only {known.only[key]!r} is supported")
        elif value is not None and not _WITHOUT_EFFECT.fullmatch(key):
            raise _UnreadableError(f"layer {name!r} has the unknown option {key!r}")
    if options.get("activation", "linear") not in _ACTIVATIONS:
        raise _UnreadableError(f"layer {name!r} has the unknown activation {options['activation']!r}")
    if "axis" in options and options["axis"] not in (-1, 3, None):
        raise _UnreadableError(f"layer {name!r} works along axis {options['axis']}; only the channels' is supported")
    return known.make(name=_plain_name(name), dtype="float32", **options)


def _plain_value(name: str, key: str, value: Any) -> Any:
    """A number, a name or a list of numbers; the two ways in which Keras 2 wrapped a number are undone."""
    if isinstance(value, dict) and value.get("type") == "ndarray":
        value = value["value"]
    if key == "axis" and isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        return tuple(_plain_value(name, key, item) for item in value)
    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and key in _NAMES):
        return value
    raise _UnreadableError(f"layer {name!r} has {key} = {value!r}, which is not a plain value")


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _check_filters(layer: keras.layers.Layer, arrays: list[np.ndarray]) -> None:
    """Refuse a convolution larger than its stored kernel before memory is taken for it."""
    if hasattr(layer, "filters") and not (
        arrays and arrays[0].shape[:2] == layer.kernel_size and layer.filters in arrays[0].shape[2:]
    ):
        raise _UnreadableError(f"the kernel of layer {layer.name!r} does not have the shape of its description")


def _ends(ends: list[Any]) -> list[str]:
    """Names in `[["input_1", 0, 0], …]`, or in the form without the outer list that single ones can have."""
    return [ends[0]] if isinstance(ends[0], str) else [end[0] for end in ends]
