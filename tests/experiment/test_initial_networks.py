"""`train.initialize_from`: a training that starts from given networks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.experiment import run_key
from cyclegan.experiment.initial_networks import InitialNetwork, find_initial_networks, initial_tags
from cyclegan.experiment.networks import build_cyclegan
from cyclegan.experiment.run_key import training_shape
from cyclegan.models.generator import build_generator
from cyclegan.models.legacy.keras_contrib import load_legacy_generator
from cyclegan.models.legacy.pytorch import load_pytorch_network
from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.system.digests import file_digest
from cyclegan.system.errors import UserError
from tiny import tiny

FIXTURES = Path(__file__).parents[1] / "fixtures"
# The networks of the fixtures.
MODEL = {
    "base_filters": 8,
    "blocks": 2,
    "padding": "reflect",
    "upsample": "transpose",
    "halving": "centered",
    "patch_layers": 2,
    "discriminator_filters": 4,
}
GIVEN = {"G_AtoB": "data/pretrained/G.keras", "D_B": "data/pretrained/D.keras"}


def params(given: dict[str, Any], **sections: dict[str, Any]) -> Params:
    train = {"crop_size": 32, "lr_policy": "constant", "ema_decay": 0.5, "initialize_from": given}
    return tiny(**({"data": {"load_size": 32}, "model": MODEL, "train": train} | sections))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a generator and a discriminator of PyTorch."""
    root = tmp_path_factory.mktemp("project")
    folder = root / "data" / "pretrained"
    folder.mkdir(parents=True)
    for name, fixture in (("G", "resnet2_instance"), ("D", "patch2_instance")):
        load_pytorch_network(FIXTURES / "pytorch" / f"{fixture}.pth").network.save(folder / f"{name}.keras")
    return Project(root=root, home=root)


def test_a_training_starts_with_the_outputs_of_the_given_networks(project: Project) -> None:
    initial = find_initial_networks(project, params(GIVEN))
    model, fresh = build_cyclegan(params(GIVEN), initial=initial), build_cyclegan(params({}))
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    for name, file in GIVEN.items():
        expected = keras.saving.load_model(project.root / file, compile=False)(image).numpy()
        assert np.array_equal(getattr(model, name)(image), expected)
        assert not np.allclose(getattr(fresh, name)(image), expected)
    # What is evaluated and kept is the given generator too, and the other networks have their seeded weights.
    assert np.array_equal(model.ema_AtoB(image), model.G_AtoB(image))
    assert np.array_equal(model.kept_AtoB(image), model.G_AtoB(image))
    for name in ("G_BtoA", "D_A"):
        assert np.array_equal(getattr(model, name)(image), getattr(fresh, name)(image))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"base_filters": 4}, "stem_conv: filters: expected 4, found 8"),
        ({"blocks": 3}, "block3a_pad: layer: expected ReflectionPadding2D, found Conv2DTranspose"),
        ({"padding": "same"}, "stem_conv: layer: expected Conv2D, found ReflectionPadding2D"),
        ({"upsample": "resize"}, "up1_resize: layer: expected BilinearUpsampling2D, found Conv2DTranspose"),
        ({"halving": "same"}, "down1_conv: layer: expected Conv2D, found ZeroPadding2D"),
        ({"norm": "instance_contrib"}, "layer: expected ContribInstanceNormalization, found InstanceNormalization"),
        ({"residual_output": True}, "output: layer: expected AddChange, found tanh"),
        ({"output_norm": True}, "head_norm: layer: expected InstanceNormalization, found tanh"),
        ({"channels_in": 1}, "image: channels: expected 1, found 3"),
    ],
)
def test_a_network_of_another_form_is_refused_with_the_difference(
    project: Project, changes: dict[str, Any], difference: str
) -> None:
    initial = find_initial_networks(project, params(GIVEN))["G_AtoB"]
    form = {"base_filters": 8, "blocks": 2, "halving": "centered"}
    with pytest.raises(UserError) as caught:
        initial.copy_to(build_generator(**(form | changes)))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("train.initialize_from.G_AtoB = data/pretrained/G.keras: ")
    assert difference in line


def test_a_network_with_other_dropout_fits(project: Project) -> None:
    network = build_generator(base_filters=8, blocks=2, halving="centered", dropout=0.5)
    initial = find_initial_networks(project, params(GIVEN))["G_AtoB"]
    initial.copy_to(network)
    given = keras.saving.load_model(initial.file, compile=False)
    assert all(map(np.array_equal, network.get_weights(), given.get_weights()))


def test_a_generator_of_the_keras_tutorial_fits(tmp_path: Path) -> None:
    file = tmp_path / "tutorial.keras"
    load_legacy_generator(FIXTURES / "parity" / "generator_keras_contrib.h5").save(file)
    network = build_generator(
        base_filters=8, blocks=2, padding="same", skip="concat", norm="instance_contrib", output_norm=True
    )
    InitialNetwork("train.initialize_from.G_AtoB", "data/pretrained/tutorial.keras", file, "").copy_to(network)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    assert np.array_equal(network(image), keras.saving.load_model(file, compile=False)(image))


def test_a_discriminator_is_no_generator(project: Project) -> None:
    swapped = params({"G_AtoB": GIVEN["D_B"]})
    with pytest.raises(UserError, match=r"train\.initialize_from\.G_AtoB = data/pretrained/D\.keras: does not fit"):
        build_cyclegan(swapped, initial=find_initial_networks(project, swapped))


def test_a_missing_or_corrupt_file_is_refused(project: Project) -> None:
    with pytest.raises(UserError, match=r"train\.initialize_from\.D_A = data/pretrained/x\.keras: does not exist"):
        find_initial_networks(project, params({"D_A": "data/pretrained/x.keras"}))
    (project.root / "data/pretrained/cut.keras").write_bytes(b"PK")
    cut = params({"D_A": "data/pretrained/cut.keras"})
    with pytest.raises(UserError, match=r"train\.initialize_from\.D_A: .*cut\.keras: is cut short"):
        build_cyclegan(cut, initial=find_initial_networks(project, cut))


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("G_AtoB", "models/generator_AtoB.keras", "data/pretrained/"),
        ("G_AtoB", "data/pretrained/../raw/a.keras", "data/pretrained/"),
        ("G_BtoA", "data/pretrained/a.h5", "data/pretrained/"),
        ("G_AtoB", "models:/name@champion", "models:/NAME/1"),
        ("D_A", "models:/name/1", "data/pretrained/"),
    ],
)
def test_a_place_that_dvc_does_not_watch_is_refused(key: str, value: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        params({key: value})
    (line,) = str(caught.value).splitlines()
    assert f"train.initialize_from.{key} = '{value}'" in line
    assert remedy in line


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("space", "base_filters", [2, 4]), ("space", "norm", ["instance", "batch"]), ("fidelity", "base_filters", 2)],
)
def test_a_search_of_other_networks_is_refused(part: str, key: str, value: Any) -> None:
    search = {part: {key: value}}
    assert params({}, search=search)
    with pytest.raises(UserError, match=rf"search\.{part}\.{key}: .*train\.initialize_from"):
        params(GIVEN, search=search)


def test_a_registered_model_needs_the_registry(project: Project) -> None:
    offline = params({"G_AtoB": "models:/name/1"}, tracking={"offline": True})
    with pytest.raises(UserError, match=r"train\.initialize_from\.G_AtoB = models:/name/1: .*tracking\.offline"):
        find_initial_networks(project, offline)


def test_the_content_and_not_the_name_of_a_file_is_in_the_run_key(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_key, "code_digest", lambda *parts: "code")
    features = FeatureNetwork("some network", 1, "0", lambda images: images)
    folder = project.root / "data" / "pretrained"
    shutil.copy(folder / "G.keras", folder / "same.keras")

    def shape(given: dict[str, str]) -> dict[str, Any]:
        chosen = params(given)
        return training_shape(chosen, "digest", features, find_initial_networks(project, chosen))

    same = shape({"G_AtoB": "data/pretrained/same.keras"})
    assert same == shape({"G_AtoB": "data/pretrained/G.keras"})
    assert same != shape({})
    assert same != shape({"G_BtoA": "data/pretrained/G.keras"})
    assert same["initial"] == {"G_AtoB": file_digest(folder / "G.keras")}


def test_a_run_records_its_initial_networks(project: Project) -> None:
    tags = initial_tags(find_initial_networks(project, params(GIVEN)))
    checksum = file_digest(project.root / GIVEN["D_B"])
    assert tags["cyclegan.initialized_from.D_B"] == f"data/pretrained/D.keras sha256:{checksum}"
    assert len(tags) == len(GIVEN)
