"""Every key of sections `model` and `train` changes what is built from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.data.loading import pipeline
from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.loading.pipeline import ResidentBatches
from cyclegan.data.packing.pack import split
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.experiment import run_key
from cyclegan.experiment.networks import build_cyclegan, compile_cyclegan, with_precision
from cyclegan.experiment.plan import batches, training_plan, training_size
from cyclegan.experiment.run_key import training_shape
from cyclegan.params import SHAPE_NOTHING, Params, flatten, read, validate
from cyclegan.project import Project
from cyclegan.training.device import bfloat16_pays

ROOT = Path(__file__).parents[2]
COMMITTED = read(ROOT / "params.yaml")
START = {
    "data.load_size": 32,
    "model.generator": "resnet",
    "model.skip": "add",
    "model.padding": "reflect",
    "model.upsample": "resize",
    "model.halving": "same",
    "model.norm": "instance",
    "model.output_norm": False,
    "model.dropout": 0.0,
    "model.discriminator": "patch",
    "model.discriminator_norm": "instance",
    "model.spectral_norm": False,
    "model.init": "normal",
    "model.init_gain": 0.02,
    "model.base_filters": 2,
    "model.blocks": 1,
    "model.patch_layers": 2,
    "model.discriminator_filters": 2,
    "model.residual_output": False,
    "train.seed": 0,
    "train.epochs": 2,
    "train.steps_per_epoch": "auto",
    "train.crop_size": 32,
    "train.batch_size": 1,
    "train.flip": True,
    "train.update_order": "joint",
    "train.adversarial_loss": "least_squares",
    "train.loss_weights": dict.fromkeys(("adversarial", "identity", "forward_cycle", "backward_cycle"), 1.5),
    "train.gradient_penalty": 0.0,
    "train.r1_penalty": 0.0,
    "train.label_smoothing": 0.0,
    "train.learning_rate": 2e-4,
    "train.beta_1": 0.5,
    "train.beta_2": 0.999,
    "train.gradient_clip_norm": None,
    "train.lr_policy": "linear",
    "train.lr_decay_start": 0.5,
    "train.plateau": None,
    "train.diff_augment": [],
    "train.mixed_precision": False,
    "train.deterministic": True,
    "train.jit_compile": "auto",
    "train.log_every": 25,
    "train.evaluate_every": 1,
    "train.select": "kid",
    "train.early_stop": None,
    "train.checkpoint_every": 2.0,
    "train.pool_size": 2,
    "train.discriminator_batch": None,
    "train.ema_decay": 0.0,
}
UNET = {"model.blocks": "auto", "model.padding": "same"}
PLATEAU = {"metric": "val_AtoB/cycle_l1", "patience": 2, "factor": 0.5}

# A key, another value for it, and what else has to be set for that value to be allowed.
OF_NETWORKS: list[tuple[str, Any, dict[str, Any]]] = [
    ("model.generator", "unet", UNET),
    ("model.base_filters", 3, {}),
    ("model.blocks", 2, {}),
    ("model.skip", "concat", {}),
    ("model.padding", "same", {}),
    ("model.upsample", "transpose", {}),
    ("model.upsample", "antialias", {}),
    ("model.halving", "centered", {}),
    ("model.norm", "batch", {}),
    ("model.output_norm", True, {}),
    ("model.residual_output", True, {}),
    ("model.generator", "unet_full", UNET),
    ("model.dropout", 0.5, {}),
    ("model.discriminator", "pixel", {"model.patch_layers": 3}),
    ("model.patch_layers", 1, {}),
    ("model.discriminator_filters", 3, {}),
    ("model.discriminator_norm", "none", {}),
    ("model.spectral_norm", True, {}),
    ("model.init", "orthogonal", {}),
    ("model.init_gain", 0.5, {}),
    ("train.mixed_precision", True, {}),
]
OF_STEP: list[tuple[str, Any, dict[str, Any]]] = [
    ("train.update_order", "sequential", {}),
    ("train.adversarial_loss", "hinge", {}),
    ("train.loss_weights.adversarial", 2.0, {}),
    ("train.loss_weights.identity", {"AtoB": 5.0, "BtoA": 1.0}, {}),
    ("train.loss_weights.forward_cycle", 3.0, {"train.update_order": "sequential"}),
    ("train.loss_weights.backward_cycle", 3.0, {"train.update_order": "sequential"}),
    ("train.gradient_penalty", 10.0, {"train.adversarial_loss": "wasserstein"}),
    ("train.r1_penalty", 1.0, {}),
    ("train.label_smoothing", 0.1, {}),
    ("train.pool_size", 0, {}),
    ("train.discriminator_batch", 3, {}),
    ("train.learning_rate", 1e-3, {}),
    ("train.beta_1", 0.0, {}),
    ("train.beta_2", 0.9, {}),
    ("train.gradient_clip_norm", 1.0, {}),
    ("train.lr_policy", "cosine", {}),
    ("train.lr_policy", "constant", {"train.lr_decay_start": None}),
    ("train.lr_decay_start", 0.0, {}),
    ("train.diff_augment", ["cutout"], {}),
    ("train.ema_decay", 0.9, {}),
    ("train.select", "last", {}),
    ("train.jit_compile", True, {"train.deterministic": False}),
    ("train.gradient_checkpointing", True, {}),
    ("train.seed", 1, {}),
]
OF_PLAN: list[tuple[str, Any, dict[str, Any]]] = [
    ("train.epochs", 3, {}),
    ("train.steps_per_epoch", 4, {}),
    ("train.batch_size", 2, {}),
    ("train.log_every", 3, {}),
    ("train.evaluate_every", 2, {}),
    ("train.select", "val_AtoB/kid", {}),
    ("train.early_stop", 3, {}),
    ("train.on_divergence.retries", 1, {}),
    ("train.on_divergence.factor", 0.25, {}),
    ("train.checkpoint_every", 1.0, {}),
    ("train.plateau", PLATEAU, {"train.lr_policy": "plateau", "train.lr_decay_start": None}),
]
OF_BATCHES: list[tuple[str, Any, dict[str, Any]]] = [
    ("train.seed", 1, {}),
    ("train.batch_size", 2, {}),
    ("train.crop_size", 16, {}),
    ("train.flip", False, {}),
]
ELSEWHERE = {
    *("train.deterministic", "train.devices", "train.extend", "train.keep_checkpoints", "train.sample_images"),
    *(f"train.initialize_from.{network}" for network in ("G_AtoB", "G_BtoA", "D_A", "D_B")),
}


def make(changes: dict[str, Any]) -> Params:
    tree = copy.deepcopy(COMMITTED)
    for path, value in (START | changes).items():
        section = tree
        *parents, last = path.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = copy.deepcopy(value)
    return validate(tree)


def named(case: Any) -> str:
    return case if isinstance(case, str) and "." in case else ""


def networks(params: Params) -> list[Any]:
    model = build_cyclegan(params)
    return [
        part
        for network in (model.G_AtoB, model.G_BtoA, model.D_A, model.D_B)
        for part in (network.to_json(), [weights.tobytes() for weights in network.get_weights()])
    ]


def step(params: Params) -> list[Any]:
    """Everything that determines a training step."""
    model = build_cyclegan(params)
    compile_cyclegan(model, params, total_steps=10)
    own = {key: value for key, value in model.get_config().items() if not isinstance(value, dict)}
    # Keras numbers the names of optimizers.
    optimizers = {group: {**optimizer.get_config(), "name": None} for group, optimizer in model.optimizers.items()}
    compiled = {key: value for key, value in model.get_compile_config().items() if key != "optimizer"}
    weights = [value.tobytes() for value in model.G_AtoB.get_weights()]
    return [own, compiled, optimizers, weights]


Look = Callable[[Params], list[Any]]
KNOWN: dict[str, list[Any]] = {}


def seen(look: Look, params: Params) -> list[Any]:
    """The result of `look`, built once for each set of parameters."""
    name = f"{look.__name__} {params.model_dump_json()}"
    if name not in KNOWN:
        KNOWN[name] = look(params)
    return KNOWN[name]


@pytest.mark.parametrize(("key", "value", "needed"), OF_NETWORKS + OF_STEP, ids=named)
def test_every_key_has_its_effect(key: str, value: Any, needed: dict[str, Any]) -> None:
    without = {"train.adversarial_loss": "least_squares"} if key == "train.gradient_penalty" else {}
    if key == "train.lr_policy":
        without = {"train.lr_decay_start": 0.5}
    before, after = make(needed | without), make(needed | {key: value})
    look = networks if (key, value, needed) in OF_NETWORKS else step
    assert seen(look, before) != seen(look, after)


@pytest.mark.parametrize("look", [networks, step])
def test_equal_parameters_have_equal_effects(look: Look) -> None:
    assert look(make({})) == look(make({}))


def test_automatic_precision_is_that_of_the_device() -> None:
    assert with_precision(make({"train.mixed_precision": "auto"})) == make({"train.mixed_precision": bfloat16_pays()})
    assert with_precision(make({"train.mixed_precision": True})) == make({"train.mixed_precision": True})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    root = tmp_path_factory.mktemp("project")
    project = Project(root=root, home=root)
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for domain in "AB":
            (project.raw / f"{part}{domain}").mkdir(parents=True)
            for n in range(3):
                pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                keras.utils.save_img(project.raw / f"{part}{domain}" / f"{n}.png", pixels, scale=False)
    split(make({}).data, project)
    return PackedDataset.open(project.split)


@pytest.mark.parametrize(("key", "value", "needed"), OF_PLAN, ids=named)
def test_every_key_reaches_the_plan(dataset: PackedDataset, key: str, value: Any, needed: dict[str, Any]) -> None:
    before, after = make({}), make(needed | {key: value})
    assert training_plan(before, dataset) != training_plan(after, dataset)


def drawn(params: Params, dataset: PackedDataset) -> list[bytes]:
    """The first four batches."""
    return [
        batch.numpy().tobytes()
        for pair in islice(iter(batches(params, dataset, training_size(params, dataset))(0)), 4)
        for batch in pair
    ]


@pytest.mark.parametrize(("key", "value", "needed"), OF_BATCHES, ids=named)
def test_every_key_reaches_the_batches(dataset: PackedDataset, key: str, value: Any, needed: dict[str, Any]) -> None:
    first = [drawn(make(changes), dataset) for changes in ({}, {}, needed | {key: value})]
    assert first[0] == first[1]
    assert first[0] != first[2]


def test_images_that_fit_are_kept_on_the_gpu(dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = drawn(make({}), dataset)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"the {kind}"])
    assert isinstance(batches(make({}), dataset, (16, 16))(0), ResidentBatches)
    assert drawn(make({}), dataset) == streamed
    monkeypatch.setattr(pipeline, "RESIDENT_BYTES", 0)
    assert not isinstance(batches(make({}), dataset, (16, 16))(0), ResidentBatches)
    assert drawn(make({}), dataset) == streamed


def test_the_cases_cover_every_key() -> None:
    keys = {key for section in ("model", "train") for key, _ in flatten({section: COMMITTED[section]})}
    cases = {key for key, _, _ in OF_NETWORKS + OF_STEP + OF_PLAN + OF_BATCHES}
    assert cases | ELSEWHERE == keys


def test_the_training_shape_has_everything_that_shapes_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key of section `train` changes it, except those that only decide what is kept."""
    # Parsing the code each time takes longer than everything else.
    monkeypatch.setattr(run_key, "code_digest", cache(run_key.code_digest))
    features = FeatureNetwork("efficientnet-lite0 at 128×128", 1280, "sum", lambda images: images)
    base = training_shape(make({}), "digest", features, {})
    for key, value, needed in OF_NETWORKS + OF_STEP + OF_PLAN + OF_BATCHES:
        other = training_shape(make(needed | {key: value}), "digest", features, {})
        assert (other != base) == (key.partition(".")[2] not in SHAPE_NOTHING), key
    assert training_shape(make({}), "other", features, {}) != base
    assert training_shape(make({}), "digest", replace(features, name="efficientnet-lite0 at 224×224"), {}) != base
    assert training_shape(make({}), "digest", replace(features, sha256="other"), {}) != base
