"""Whatever `params.yaml` accepts builds, trains one step, and translates the same after saving and loading."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from cyclegan.experiment.networks import build_cyclegan, compile_cyclegan, inference_copy
from cyclegan.models.translator import Translator, load_generator
from cyclegan.params import Params, read, validate
from cyclegan.system.errors import UserError
from cyclegan.training.device import prepare_device

BASE = read(Path(__file__).parents[2] / "params.yaml")
START = {
    "data": {"load_size": 32},
    "model": {"generator": "resnet", "base_filters": 2, "blocks": 1, "skip": "add", "padding": "reflect"}
    | {"upsample": "resize", "patch_layers": 1, "discriminator_filters": 2, "init_gain": 0.2},
    "train": {"crop_size": 32, "deterministic": False},
}

some = st.sampled_from
norms = some(["instance", "instance_contrib", "batch", "none"])
transforms = st.lists(some(["color", "translation", "cutout"]), max_size=3)
weight = some([0.0, 1, 5.0]) | st.fixed_dictionaries({"AtoB": some([0.0, 2.0]), "BtoA": some([1.0, 3.0])})
sizes = [16, 24, 32, [16, 32], [48, 32]]
plateaus = st.fixed_dictionaries(
    {"metric": some(["val_AtoB/cycle_l1", "val_BtoA/pair_ssim"]), "patience": st.integers(1, 9), "factor": some([0.5])}
)

# Keys that bear on each other are drawn together, the first of them for good and the others until the set is accepted.
GROUPS: list[dict[str, st.SearchStrategy[Any]]] = [
    {"train.crop_size": some([*sizes, "whole"]), "data.load_size": some([*sizes, "original"])},
    {
        "data.channels_A": st.integers(1, 6),
        "data.channels_B": st.integers(1, 6),
        "train.loss_weights.identity": weight,
        "model.residual_output": st.booleans(),
    },
    {
        "model.generator": some(["resnet", "unet", "unet_full"]),
        "model.blocks": some(["auto", 0, 1, 2]),
        "model.skip": some(["add", "concat"]),
        "model.padding": some(["reflect", "same"]),
        "model.upsample": some(["transpose", "resize", "antialias"]),
        "model.halving": some(["same", "centered"]),
    },
    {"model.discriminator": some(["patch", "pixel", "tutorial"]), "model.patch_layers": st.integers(1, 3)},
    {"model.norm": norms, "model.output_norm": st.booleans()},
    {"model.discriminator_norm": norms},
    {"model.base_filters": st.integers(1, 3)},
    {"model.discriminator_filters": st.integers(1, 3)},
    {"model.dropout": some([0.0, 0.5])},
    {"model.spectral_norm": st.booleans()},
    {"model.init": some(["normal", "xavier", "kaiming", "orthogonal"]), "model.init_gain": some([0.02, 1.0])},
    {"train.seed": st.integers(0, 2**31 - 1)},
    {"train.batch_size": st.integers(1, 2)},
    {
        "train.update_order": some(["joint", "sequential"]),
        "train.loss_weights.forward_cycle": weight,
        "train.loss_weights.backward_cycle": weight,
    },
    {"train.loss_weights.adversarial": weight},
    {
        "train.adversarial_loss": some(["least_squares", "vanilla", "hinge", "wasserstein"]),
        "train.gradient_penalty": some([0.0, 10.0]),
        "train.label_smoothing": some([0.0, 0.1]),
    },
    {"train.r1_penalty": some([0.0, 1.0])},
    {"train.pool_size": some([0, 1, 3]), "train.discriminator_batch": some([None, 3])},
    {"train.learning_rate": some([2e-4, 1e-2])},
    {"train.beta_1": some([0.0, 0.5])},
    {"train.gradient_clip_norm": some([None, 1.0])},
    {
        "train.lr_policy": some(["constant", "linear", "cosine", "step", "plateau"]),
        "train.lr_decay_start": some([None, 0.0, 0.5]),
        "train.plateau": st.none() | plateaus,
    },
    {"train.diff_augment": transforms},
    {"train.ema_decay": some([0.0, 0.9])},
    {"train.mixed_precision": st.booleans()},
    # XLA takes twenty times as long to compile such a step as to run it.
    {"train.jit_compile": some([*("auto", False) * 10, True])},
    {"data.bit_depth": some([8, 16])},
]


def set_key(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = copy.deepcopy(value)


def is_accepted(tree: dict[str, Any]) -> bool:
    try:
        validate(copy.deepcopy(tree))
    except UserError:
        return False
    return True


@st.composite
def configurations(draw: st.DrawFn) -> Params:
    """Parameters that `validate` accepts; it alone decides which combinations there are."""
    tree = copy.deepcopy(BASE)
    for section, values in START.items():
        tree[section] |= values
    for group in GROUPS:
        (first, strategy), *others = group.items()
        leading = draw(strategy)
        for _ in range(60):
            trial = copy.deepcopy(tree)
            set_key(trial, first, leading)
            for path, strategy in others:
                set_key(trial, path, draw(strategy))
            if is_accepted(trial):
                tree = trial
                break
    assume(is_accepted(tree))
    params = validate(tree)
    assume(params.model.objection_to(size_of(params)) is None)
    return params


def size_of(params: Params) -> tuple[int, int]:
    """The size of the training images, with images that say 32×16 where the parameters leave it to them."""
    return params.training_size or (32, 16)


def check(params: Params, folder: Path) -> None:
    data, train, size = params.data, params.train, size_of(params)
    prepare_device(train.seed, train.deterministic)
    model = build_cyclegan(params, size)
    compile_cyclegan(model, params, total_steps=10)
    random = np.random.default_rng(0)

    def random_images(channels: int) -> tf.Tensor:
        shape = (train.batch_size, *model.image_size, channels)
        return tf.constant(random.uniform(-1, 1, shape), tf.float32)

    real = random_images(data.channels_A), random_images(data.channels_B)
    losses = model.train_on_batch(*real, return_dict=True)
    assert losses
    assert {name: value for name, value in losses.items() if not np.isfinite(value)} == {}
    assert int(model.step) == 1

    model.save(folder / "cyclegan.keras")
    loaded = keras.saving.load_model(folder / "cyclegan.keras", safe_mode=True)
    for got, expected in zip(loaded(real), model(real), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert loaded.get_compile_config() == model.get_compile_config()

    kind = np.uint8 if data.bit_depth == 8 else np.uint16
    for direction, generator in model.generators.items():
        kept = inference_copy(generator, params, f"G_{direction}", model.image_size)
        kept.save(folder / "generator.keras")
        stored = random.integers(0, np.iinfo(kind).max, (1, 21, 34, kept.input_shape[-1])).astype(kind)
        expected = Translator(kept, data.bit_depth).translate(stored)
        got = Translator(load_generator(folder / "generator.keras"), data.bit_depth).translate(stored)
        np.testing.assert_array_equal(got, expected)


few = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    # Shrinking a failure builds hundreds of models.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.usefixtures("eagerly")
@few
@given(params=configurations())
def test_random_configurations(params: Params, tmp_path: Path) -> None:
    """Without graphs, which take ten seconds each; those below have them."""
    check(params, tmp_path)


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    """A process that is replaced after 25 calls: TensorFlow keeps tens of megabytes for each function it has traced."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=25) as pool:
        yield pool


@pytest.mark.slow
@settings(few, max_examples=200, derandomize=False)
@given(params=configurations())
def test_many_random_configurations(params: Params, tmp_path: Path, worker: ProcessPoolExecutor) -> None:
    worker.submit(check, params, tmp_path).result()
