"""The figures that a learning rate may follow are those that the validation measures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan.data.dataset import PackedDataset
from cyclegan.data.split import split
from cyclegan.errors import UserError
from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.evaluation.protocol import RealPictures
from cyclegan.inference.translate import Translator
from cyclegan.params import Params, read, validate
from cyclegan.project import Project
from cyclegan.stages.networks import build_cyclegan
from cyclegan.stages.samples import samples
from cyclegan.stages.series import validation_series
from cyclegan.stages.session import training_plan, validation_figures
from cyclegan.training.selection import Selection

ROOT = Path(__file__).parents[2]
TINY = {
    "data": {"load_size": 16},
    "model": {"generator": "resnet", "base_filters": 2, "blocks": 0, "padding": "same", "upsample": "resize"}
    | {"patch_layers": 1, "discriminator_filters": 2, "residual_output": False},
    "train": {"crop_size": 16, "lr_policy": "plateau", "lr_decay_start": None},
}


@pytest.fixture(scope="module")
def features() -> FeatureNetwork:
    return load_features(ROOT / "data/features/efficientnet-lite0.npz", 32)


def tiny(**sections: dict[str, Any]) -> Params:
    tree = copy.deepcopy(read(ROOT / "params.yaml"))
    for changes in (TINY, sections):
        for section, values in changes.items():
            tree[section] |= values
    return validate(tree)


def packed(root: Path, params: Params, paired: bool) -> PackedDataset:
    project = Project(root=root, home=root)
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for domain in "AB":
            folder = project.raw / f"{part}{domain}"
            folder.mkdir(parents=True)
            for n in range(3):
                Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{n}.png")
    if paired:
        rows = [f"{part}A/{n}.png,{part}B/{n}.png" for part in ("train", "val", "test") for n in range(3)]
        (project.raw / "pairs.csv").write_text("\n".join(["A,B", *rows]))
    split(params.data, project)
    return PackedDataset.open(project.split)


@pytest.mark.parametrize(
    ("paired", "channels_A", "kinds"),
    [
        (True, 3, {"cycle_l1", "identity_l1", "kid", "pair_psnr", "pair_ssim"}),
        (False, 3, {"cycle_l1", "identity_l1", "kid"}),
        (True, 1, {"cycle_l1", "kid", "pair_psnr", "pair_ssim"}),
    ],
    ids=["pairs", "no pairs", "unequal channels"],
)
def test_series_are_known_before_training(
    tmp_path: Path, paired: bool, channels_A: int, kinds: set[str], features: FeatureNetwork
) -> None:
    plateau = {"metric": "val_BtoA/identity_ssim", "patience": 1, "factor": 0.5}
    weights = read(ROOT / "params.yaml")["train"]["loss_weights"] | {"identity": 0.0}
    params = tiny(data={"channels_A": channels_A}, train={"plateau": plateau, "loss_weights": weights})
    dataset = packed(tmp_path, params, paired)
    model = build_cyclegan(params)
    translators = {direction: Translator(generator) for direction, generator in model.generators.items()}
    series = validation_series(dataset)
    assert set(series) == set(validation_figures(translators, dataset, RealPictures(dataset, "val", features)))
    assert {name.partition("/")[2] for name in series} == kinds

    with pytest.raises(UserError) as refused:
        training_plan(params, dataset)
    assert str(refused.value).startswith("train.plateau.metric = 'val_BtoA/identity_ssim': ")
    assert all(name in str(refused.value) for name in series)
    known = tiny(train={"plateau": plateau | {"metric": series[0]}})
    assert training_plan(known, dataset).plateau.patience == 1


def test_what_the_generators_are_chosen_by_is_known_before_training(tmp_path: Path) -> None:
    params = tiny(train={"lr_policy": "constant", "select": "pair_ssim"})
    dataset = packed(tmp_path, params, paired=False)
    with pytest.raises(UserError, match=r"train\.select = 'pair_ssim'.*use last, or one of .*val_BtoA/kid"):
        training_plan(params, dataset)
    assert training_plan(tiny(train={"lr_policy": "constant", "select": "auto"}), dataset).selection == Selection("kid")
    chosen = training_plan(tiny(train={"lr_policy": "constant", "select": "kid", "early_stop": 4}), dataset)
    assert chosen.selection == Selection("kid", 4)
    assert training_plan(tiny(train={"lr_policy": "constant", "select": "last"}), dataset).selection is None


def test_sample_grids_show_so_many_pictures(tmp_path: Path) -> None:
    params = tiny(train={"lr_policy": "constant"})
    dataset = packed(tmp_path, params, paired=False)
    translators = {name: Translator(generator) for name, generator in build_cyclegan(params).generators.items()}
    heights = {}
    for count in (1, 2, 3, 9):
        shown = samples(translators, dataset, count)
        assert set(shown) == {"AtoB", "BtoA"}
        (heights[count],) = {len(sample.grid) for sample in shown.values()}
    # Enlarged eightfold, four white pixels between the rows; the split holds three pictures.
    assert heights == {1: 128, 2: 260, 3: 392, 9: 392}
