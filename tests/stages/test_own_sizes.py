"""Images that keep their own sizes: what a training requires of them, and a full training on them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.experiment.networks import build_cyclegan
from cyclegan.experiment.plan import training_size
from cyclegan.params import read, validate
from cyclegan.project import Project
from cyclegan.stages import evaluate, split, train
from cyclegan.system.errors import UserError
from refusals import holds

COMMITTED = read(Path(__file__).parents[2] / "params.yaml")
TINY: dict[str, dict[str, Any]] = {
    "data": {"load_size": "original", "name": "own-sizes"},
    "model": {"generator": "resnet", "base_filters": 2, "blocks": 0, "skip": "add", "padding": "reflect"}
    | {"discriminator": "patch", "patch_layers": 1, "discriminator_filters": 2, "residual_output": False},
    "train": {"crop_size": 16, "epochs": 1, "steps_per_epoch": 4, "log_every": 2, "evaluate_every": 1, "pool_size": 2},
}


def tree(**train: Any) -> dict[str, Any]:
    changed = copy.deepcopy(COMMITTED)
    for section, values in copy.deepcopy(TINY).items():
        changed[section] |= values
    changed["train"] |= train
    return changed


def packed(root: Path, sizes: list[tuple[int, int]], **train: Any) -> Project:
    """A project with images of these (height, width) in each split and domain, packed."""
    project = Project(root=root, home=root)
    (root / "data").mkdir()
    (root / "data" / "features").symlink_to(Path(__file__).parents[2] / "data" / "features")
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for domain in "AB":
            (project.raw / f"{part}{domain}").mkdir(parents=True)
            for n, size in enumerate(sizes):
                pixels = random.integers(0, 256, (*size, 3), np.uint8)
                keras.utils.save_img(project.raw / f"{part}{domain}" / f"{n}.png", pixels, scale=False)
    YAML().dump(tree(**train), project.params)
    split.run(project)
    return project


def test_crops_must_fit_into_every_image(tmp_path: Path) -> None:
    dataset = PackedDataset.open(packed(tmp_path, [(16, 20), (30, 16), (17, 33)]).split)
    assert training_size(validate(tree()), dataset) == (16, 16)
    with pytest.raises(UserError) as refused:
        training_size(validate(tree(crop_size=[16, 20])), dataset)
    facts = ("train.crop_size", "[16, 20]", 2, 6, "data.load_size", "trainA/1 (16×30), trainB/1 (16×30)")
    assert all(holds(str(refused.value), fact) for fact in facts), refused.value


def test_whole_images_must_have_one_size(tmp_path: Path) -> None:
    dataset = PackedDataset.open(packed(tmp_path, [(16, 20), (16, 20), (20, 16)]).split)
    with pytest.raises(UserError) as refused:
        training_size(validate(tree(crop_size="whole")), dataset)
    facts = ("train.crop_size: whole", "trainA/0 (20×16)", 2, 6, "data.load_size", "trainA/2 (16×20), trainB/2 (16×20)")
    assert all(holds(str(refused.value), fact) for fact in facts), refused.value


def test_networks_must_support_the_size_of_whole_images(tmp_path: Path) -> None:
    dataset = PackedDataset.open(packed(tmp_path, [(18, 20), (18, 20)]).split)
    with pytest.raises(UserError, match=r"\[18, 20\].* multiple of 4 .*\[16, 20\]"):
        training_size(validate(tree(crop_size="whole")), dataset)


def test_networks_without_data_need_a_size() -> None:
    with pytest.raises(
        UserError, match=r"^train\.crop_size: whole with data\.load_size: original .*; set one of them in pixels"
    ):
        build_cyclegan(validate(tree(crop_size="whole")))
    assert build_cyclegan(validate(tree(crop_size="whole")), (16, 20)).image_size == (16, 20)


@pytest.mark.parametrize(
    ("sizes", "crop_size"),
    [([(16, 20), (31, 18), (22, 40)], 16), ([(16, 20)] * 3, "whole")],
    ids=["crop", "none"],
)
@pytest.mark.slow
def test_a_full_training(tmp_path: Path, sizes: list[tuple[int, int]], crop_size: Any) -> None:
    project = packed(tmp_path, sizes, crop_size=crop_size)
    train.run(project)
    evaluate.run(project)
    losses = pd.read_csv(project.reports / "train" / "losses.csv")
    assert list(losses["step"]) == [2, 4]
    assert np.isfinite(losses).all(axis=None)
    metrics = json.loads((project.reports / "evaluate" / "details.json").read_text())
    assert metrics["AtoB"]["n"] == 3
    expected = {"height": 16, "width": 20} if crop_size == "whole" else {"height": [16, 31], "width": [18, 40]}
    assert metrics["protocol"]["resolution"] == expected
