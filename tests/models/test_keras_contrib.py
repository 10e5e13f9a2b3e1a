from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models import load_legacy_generator, size_multiple
from cyclegan.models.normalization import ContribInstanceNormalization
from cyclegan.system.errors import UserError

Config = dict[str, Any]


@pytest.fixture
def changed(parity: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the parity file with its JSON (and file) changed."""

    def change(edit: Callable[[Config], Any], edit_file: Callable[[h5py.File], Any] = lambda file: None) -> Path:
        path = tmp_path / "changed.h5"
        path.write_bytes((parity / "generator_keras_contrib.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            edit(config)
            file.attrs["model_config"] = json.dumps(config).encode()
            edit_file(file)
        return path

    return change


@pytest.fixture(scope="module")
def known(parity: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(parity / "generator_io.npz") as archive:
        return archive["x"], archive["y"]


def layers_of(config: Config, kind: str) -> list[Config]:
    return [layer for layer in config["config"]["layers"] if layer["class_name"] == kind]


def write(path: Path, layers: list[tuple[str, Config, list[str], list[np.ndarray]]]) -> Path:
    """Write a file as Keras 2.3 did: class `Model`, bytes, short JSON."""
    entries = [
        {
            "class_name": kind,
            "config": {"name": f"l{number}", "trainable": True, **config},
            "name": f"l{number}",
            "inbound_nodes": [[[source, 0, 0, {}] for source in sources]] if sources else [],
        }
        for number, (kind, config, sources, _) in enumerate(layers)
    ]
    ends = {"input_layers": [["l0", 0, 0]], "output_layers": [[f"l{len(layers) - 1}", 0, 0]]}
    with h5py.File(path, "w") as file:
        config = {"class_name": "Model", "config": {"name": "model_1", "layers": entries, **ends}}
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = b"2.3.1"
        for number, (_, _, _, arrays) in enumerate(layers):
            group = file.create_group(f"model_weights/l{number}")
            names = [f"l{number}/w{index}:0".encode() for index in range(len(arrays))]
            group.attrs["weight_names"] = names
            for name, array in zip(names, arrays, strict=True):
                group[name.decode()] = array
    return path


@pytest.mark.usefixtures("deterministic")
def test_output_equals_the_recorded_one_and_survives_saving(
    parity: Path,
    known: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    within: Callable[[str, float, float], None],
) -> None:
    x, y = known
    generator = load_legacy_generator(parity / "generator_keras_contrib.h5")
    within("import-legacy, keras-contrib's .h5 file: output", np.abs(generator(x) - y).max(), 1e-5)

    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(x), generator(x))
    assert sum(type(layer) is ContribInstanceNormalization for layer in loaded.layers) == 10
    assert loaded.count_params() == 69_801
    assert loaded.output_shape == (None, None, None, 3)
    assert loaded(np.zeros((1, 48, 64, 3), "float32")).shape == (1, 48, 64, 3)
    assert size_multiple(loaded) == 4


def test_the_loaded_generator_can_be_trained(parity: Path, known: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = known
    generator = load_legacy_generator(parity / "generator_keras_contrib.h5")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((generator(x, training=True) + y) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in generator.trainable_weights])
    assert len(gradients) == 40
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_files_of_2019_have_shorter_descriptions(
    changed: Callable[..., Path], known: tuple[np.ndarray, np.ndarray]
) -> None:
    def shorten(config: Config) -> None:
        config["class_name"] = "Model"
        config["config"].pop("trainable")
        for layer in config["config"]["layers"]:
            layer["config"].pop("groups", None)
            layer["config"].pop("optional", None)
            layer["config"].pop("ragged", None)
            for key, value in layer["config"].items():
                if isinstance(value, dict):
                    layer["config"][key] = {"class_name": value["class_name"], "config": value["config"]}

    x, y = known
    assert np.abs(load_legacy_generator(changed(shorten))(x) - y).max() < 1e-5


def test_every_known_layer_is_made_as_described(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(0, 0.3, shape).astype("float32")

    conv = {"data_format": "channels_last", "dilation_rate": [1, 1], "kernel_regularizer": {"class_name": "L1L2"}}
    kernels = [draw(4, 4, 1, 6), draw(3, 3, 6, 6), draw(3, 3, 4, 12), draw(3, 3, 4, 1)]
    biases = [draw(6), draw(4), draw(1)]
    norm = [1 + draw(6), draw(6), draw(6), 1 + np.abs(draw(6))]
    contrib = [1 + draw(1), draw(1)]
    path = write(
        tmp_path / "unet.h5",
        [
            ("InputLayer", {"batch_input_shape": [None, 16, 16, 1], "sparse": False}, [], []),
            ("ZeroPadding2D", {"padding": [[1, 1], [1, 1]], "data_format": "channels_last"}, ["l0"], []),
            (
                "Conv2D",
                {
                    **conv,
                    "filters": 6,
                    "kernel_size": [4, 4],
                    "strides": [2, 2],
                    "padding": "valid",
                    "use_bias": True,
                    "activation": "linear",
                },
                ["l1"],
                [kernels[0], biases[0]],
            ),
            (
                "BatchNormalization",
                {"axis": [3], "momentum": 0.99, "epsilon": 0.01, "center": True, "scale": True},
                ["l2"],
                norm,
            ),
            ("LeakyReLU", {"alpha": {"type": "ndarray", "value": 0.25}}, ["l3"], []),
            (
                "Conv2D",
                {
                    **conv,
                    "filters": 6,
                    "kernel_size": [3, 3],
                    "strides": [1, 1],
                    "padding": "same",
                    "use_bias": False,
                    "activation": "relu",
                },
                ["l4"],
                [kernels[1]],
            ),
            ("Dropout", {"rate": 0.5, "noise_shape": None, "seed": None}, ["l5"], []),
            ("Add", {}, ["l6", "l4"], []),
            ("Concatenate", {"axis": -1}, ["l7", "l4"], []),
            ("ReLU", {"max_value": 2.0, "negative_slope": 0.5, "threshold": 0.0}, ["l8"], []),
            ("UpSampling2D", {"size": [1, 1], "interpolation": "nearest", "data_format": "channels_last"}, ["l9"], []),
            (
                "Conv2DTranspose",
                {
                    **conv,
                    "filters": 4,
                    "kernel_size": [3, 3],
                    "strides": [2, 2],
                    "padding": "same",
                    "output_padding": None,
                    "use_bias": True,
                    "activation": "linear",
                },
                ["l10"],
                [kernels[2], biases[1]],
            ),
            (
                "InstanceNormalization",
                {"axis": None, "epsilon": 0.001, "center": True, "scale": True},
                ["l11"],
                contrib,
            ),
            (
                "Conv2D",
                {
                    **conv,
                    "filters": 1,
                    "kernel_size": [3, 3],
                    "strides": [1, 1],
                    "padding": "same",
                    "use_bias": True,
                    "activation": "tanh",
                },
                ["l12"],
                [kernels[3], biases[2]],
            ),
        ],
    )
    generator = load_legacy_generator(path)

    x = random.uniform(-1, 1, (2, 16, 16, 1)).astype("float32")
    ops = keras.ops
    y = ops.conv(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernels[0], 2, "valid") + biases[0]
    y = norm[0] * (y - norm[2]) / ops.sqrt(norm[3] + 0.01) + norm[1]
    inner = ops.where(y > 0, y, 0.25 * y)
    y = ops.relu(ops.conv(inner, kernels[1], 1, "same")) + inner
    y = ops.concatenate([y, inner], -1)
    y = ops.where(y > 0, ops.minimum(y, 2.0), 0.5 * y)
    y = np.asarray(ops.conv_transpose(y, kernels[2], 2, "same") + biases[1])
    axes = (1, 2, 3)
    y = contrib[0] * (y - y.mean(axes, keepdims=True)) / (y.std(axes, keepdims=True) + 1e-3) + contrib[1]
    y = ops.tanh(ops.conv(y, kernels[3], 1, "same") + biases[2])
    np.testing.assert_allclose(generator(x), y, atol=1e-5)
    assert np.std(y) > 0.1


def rename(kind: str) -> Callable[[Config], None]:
    return lambda config: layers_of(config, "Activation")[0].update(class_name=kind)


def option(kind: str, **options: Any) -> Callable[[Config], None]:
    return lambda config: layers_of(config, kind)[-1]["config"].update(options)


REFUSALS: dict[str, tuple[Callable[[Config], Any], str]] = {
    "Lambda": (rename("Lambda"), "'activation' is a Lambda, which holds program code"),
    "unknown layer": (rename("SpectralDense"), "'activation' has the unknown class 'SpectralDense'"),
    "nested model": (rename("Model"), "'activation' has the unknown class 'Model'"),
    "registered name": (rename("cyclegan>ReflectionPadding2D"), "has the unknown class"),
    "sequential": (lambda config: config.update(class_name="Sequential"), "class 'Sequential'"),
    "activation": (option("Activation", activation="exponential"), "unknown activation 'exponential'"),
    "code as activation": (option("Activation", activation={"class_name": "function"}), "not a plain value"),
    "channels first": (option("Conv2D", data_format="channels_first"), "only channels last"),
    "groups": (option("Conv2DTranspose", groups=2), "groups = 2; only 1 is supported"),
    "axis": (option("InstanceNormalization", axis=1), "works along axis 1"),
    "unknown option": (option("Conv2D", masked=True), "unknown option 'masked'"),
    "filters": (option("Conv2D", filters=2**40), "kernel of layer 'conv2d_7' does not have the shape"),
    "strides": (option("Conv2DTranspose", strides=[1, 1]), "not an image of the input's size"),
    "range": (option("Activation", activation="sigmoid"), "not tanh"),
    "text for a number": (option("InstanceNormalization", epsilon="x"), "epsilon = 'x', which is not a plain value"),
    "padding": (option("Conv2D", padding="reflect"), "does not fit together"),
    "flat input": (option("InputLayer", batch_input_shape=[None, 100]), r"shape \[None, 100\]"),
    "no layers": (lambda config: config["config"].update(layers=[]), "does not fit together"),
    "no class": (lambda config: config.pop("class_name"), "does not fit together"),
    "two inputs": (
        lambda config: config["config"].update(input_layers=[["input_1", 0, 0], ["input_1", 0, 0]]),
        "does not fit together",
    ),
    "twice": (
        lambda config: config["config"]["layers"].append(config["config"]["layers"][1]),
        "two layers are called 'conv2d'",
    ),
    "shared layer": (
        lambda config: config["config"]["layers"][1]["inbound_nodes"].append([["input_1", 0, 0, {}]]),
        "'conv2d' is called more than once",
    ),
    "unknown source": (
        lambda config: config["config"]["layers"][1].update(inbound_nodes=[[["nowhere", 0, 0, {}]]]),
        "does not fit together.*nowhere",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_other_models_are_refused(name: str, changed: Callable[..., Path]) -> None:
    edit, message = REFUSALS[name]
    path = changed(edit)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{message}") as refusal:
        load_legacy_generator(path)
    assert "\n" not in str(refusal.value)


def replace_weight(file: h5py.File, **dataset: Any) -> None:
    group = file["model_weights/conv2d/conv2d"]
    del group["kernel:0"]
    group.create_dataset("kernel:0", **dataset)


def link_elsewhere(file: h5py.File) -> None:
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target["secret"] = np.ones((7, 7, 3, 8), "float32")
    del file["model_weights/conv2d/conv2d/kernel:0"]
    file["model_weights/conv2d/conv2d/kernel:0"] = h5py.ExternalLink(str(other), "secret")


def raw_elsewhere(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("secret.bin")
    raw.write_bytes(bytes(7 * 7 * 3 * 8 * 4))
    replace_weight(file, shape=(7, 7, 3, 8), dtype="f4", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


FILES: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "external link": (link_elsewhere, "points to another file"),
    "external values": (raw_elsewhere, "points to another file"),
    "values that are not there": (
        lambda file: replace_weight(file, shape=(2**20, 2**20), dtype="f4", chunks=(64, 64)),
        "is incomplete",
    ),
    "other shape": (
        lambda file: replace_weight(file, data=np.zeros((7, 7, 1, 8), "f4")),
        "weights of layer 'conv2d' do not have the shapes",
    ),
    "no weights": (lambda file: file.__delitem__("model_weights/conv2d"), "kernel of layer 'conv2d'"),
    "no weights at all": (lambda file: file.__delitem__("model_weights"), "is corrupt"),
    "weights only": (lambda file: file.attrs.__delitem__("model_config"), "holds no model_config"),
    "no JSON": (lambda file: file.attrs.__setitem__("model_config", "{"), "is corrupt"),
    "deep JSON": (lambda file: file.attrs.__setitem__("model_config", "[" * 60_000), "is corrupt"),
    "JSON that is a list": (lambda file: file.attrs.__setitem__("model_config", "[]"), "does not fit together"),
}


@pytest.mark.parametrize("name", FILES)
def test_corrupt_and_hostile_files_are_refused(name: str, changed: Callable[..., Path]) -> None:
    edit, message = FILES[name]
    path = changed(lambda config: None, edit)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{message}"):
        load_legacy_generator(path)


class Payload:
    """Its unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_files_that_are_not_hdf5_are_refused(parity: Path, tmp_path: Path) -> None:
    path, trap = tmp_path / "generator.h5", tmp_path / "trap"
    whole = (parity / "generator_keras_contrib.h5").read_bytes()
    for content, message in (
        (pickle.dumps(Payload(trap)), "is not an HDF5 file"),
        (np.random.default_rng(0).bytes(4096), "is not an HDF5 file"),
        (b"", "is not an HDF5 file"),
        (whole[: len(whole) // 2], "is corrupt"),
        (whole[:600], "is corrupt"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_legacy_generator(path)
    assert not trap.exists()
    with pytest.raises(UserError, match="no such file"):
        load_legacy_generator(tmp_path / "missing.h5")
    with pytest.raises(UserError, match="no such file"):
        load_legacy_generator(tmp_path)
