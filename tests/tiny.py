"""The smallest possible parameters and data of a project."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.packing.pack import split
from cyclegan.params import Params, read, validate
from cyclegan.project import Project

ROOT = Path(__file__).parents[1]
TINY = {
    "data": {"load_size": 16},
    "model": {"generator": "resnet", "base_filters": 2, "blocks": 0, "padding": "same", "upsample": "resize"}
    | {"patch_layers": 1, "discriminator_filters": 2, "residual_output": False},
    "train": {"crop_size": 16, "lr_policy": "plateau", "lr_decay_start": None},
}


def tiny(**sections: dict[str, Any]) -> Params:
    tree = copy.deepcopy(read(ROOT / "params.yaml"))
    for changes in (TINY, sections):
        for section, values in changes.items():
            tree[section] |= values
    return validate(tree)


def paint(project: Project) -> None:
    """Write three images for each split and domain."""
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for domain in "AB":
            folder = project.raw / f"{part}{domain}"
            folder.mkdir(parents=True)
            for n in range(3):
                Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{n}.png")


def packed(root: Path, params: Params, paired: bool) -> PackedDataset:
    project = Project(root=root, home=root)
    paint(project)
    if paired:
        rows = [f"{part}A/{n}.png,{part}B/{n}.png" for part in ("train", "val", "test") for n in range(3)]
        (project.raw / "pairs.csv").write_text("\n".join(["A,B", *rows]))
    split(params.data, project)
    return PackedDataset.open(project.split)
