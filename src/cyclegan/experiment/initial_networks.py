"""The networks that a training starts from (`train.initialize_from`): their files, their fit and their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.system.digests import file_digest
from cyclegan.system.errors import UserError
from cyclegan.tracking.registered_generator import download
from cyclegan.tracking.store import open_store

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class InitialNetwork:
    """A network of a `.keras` file that gives another one its weights.

    Attributes:
        key: its parameter, such as `train.initialize_from.G_AtoB`.
        origin: the value of this parameter.
        file: the file, downloaded for a registered model.
        sha256: checksum of the file.
    """

    key: str
    origin: str
    file: Path
    sha256: str

    def copy_to(self, network: keras.Model) -> None:
        """Copy the weights to a network of the same form.

        Raises:
            UserError: the file is corrupt or holds another kind of model, or its network differs in form.
        """
        # Imported here, because a worker of a search only reads checksums and needs no TensorFlow.
        from cyclegan.models.translator import load_generator

        try:
            found = load_generator(self.file)
        except UserError as error:
            raise UserError(f"{self.key}: {error}") from None
        expected_layers, found_layers = _layers(network), _layers(found)
        for expected, other in zip_longest(expected_layers, found_layers):
            for difference in _differences(expected, other):
                raise UserError(
                    f"{self.key} = {self.origin}: does not fit: {difference}; set sections model and data as that "
                    "network was trained"
                )
        for expected, other in zip(expected_layers, found_layers, strict=True):
            expected.set_weights(other.get_weights())


def find_initial_networks(project: Project, params: Params) -> dict[str, InitialNetwork]:
    """The networks that `train.initialize_from` names, by `G_AtoB`, `G_BtoA`, `D_A` and `D_B`.

    Raises:
        UserError: a file or a registered model is missing, or the registry is unavailable.
    """
    networks = {}
    for name, origin in params.train.initialize_from.model_dump(exclude_none=True).items():
        key = f"train.initialize_from.{name}"
        if not origin.startswith("models:/"):
            file = project.root / origin
            if not file.is_file():
                raise UserError(f"{key} = {origin}: does not exist; copy the network there, or set the key to null")
        elif params.tracking.offline:
            raise UserError(f"{key} = {origin}: needs the registry; set tracking.offline: false, or use a file")
        else:
            store = open_store(project, params.tracking)
            try:
                file, _ = download(origin, store.display_uri)
            except UserError as error:
                raise UserError(f"{key}: {error}") from None
        networks[name] = InitialNetwork(key, origin, file, file_digest(file))
    return networks


def initial_tags(networks: Mapping[str, InitialNetwork]) -> dict[str, str]:
    """MLflow tags of a run that starts from these networks."""
    return {
        f"cyclegan.initialized_from.{name}": f"{network.origin} sha256:{network.sha256}"
        for name, network in networks.items()
    }


def _layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers that shape the output in inference."""
    return [layer for layer in network.layers if type(layer).__name__ != "Dropout"]


# Options of a layer that do not change its output.
_WITHOUT_EFFECT = ("name", "trainable", "dtype", "seed", "batch_shape", "ragged", "sparse", "optional")
_WITHOUT_EFFECT_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def _form(layer: keras.layers.Layer | None) -> dict[str, Any]:
    """What a layer computes, apart from its weights; empty for None."""
    if layer is None:
        return {}
    config, kind = layer.get_config(), type(layer).__name__
    if kind == "InputLayer":
        return {"layer": "input", "channels": config["batch_shape"][-1]}
    # Other programs write a ReLU as an activation.
    if kind in ("ReLU", "Activation"):
        return {"layer": config.get("activation", "relu")}
    options = {
        option: value
        for option, value in config.items()
        if option not in _WITHOUT_EFFECT and not option.endswith(_WITHOUT_EFFECT_ENDINGS)
    }
    return {"layer": kind, **options}


def _differences(expected: keras.layers.Layer | None, found: keras.layers.Layer | None) -> Iterator[str]:
    """Each difference in form between two layers; the first one that the training lacks, or that it has alone."""
    ours, theirs = _form(expected), _form(found)
    layer = expected if expected is not None else found
    assert layer is not None
    for option in {**ours, **theirs}:
        if ours.get(option) != theirs.get(option):
            yield f"{layer.name}: {option}: expected {ours.get(option)}, found {theirs.get(option)}"
