"""Two data sets with equal folder names never become versions of one registered model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.packing.pack import split
from cyclegan.experiment.naming import data_tags, refuse_other_images
from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store, open_store
from tiny import paint, tiny

FOLDERS = {"source": "folders", "folder_A": "cats/trainA", "folder_B": "cats/trainB"}
CONSTANT = {"lr_policy": "constant"}


def params(**data: Any) -> Params:
    return tiny(data=FOLDERS | data, train=CONSTANT)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(root=tmp_path, home=tmp_path)
    paint(project)
    return project


def packed(project: Project, **data: Any) -> PackedDataset:
    shutil.rmtree(project.split, ignore_errors=True)
    split(params(**data).data, project)
    return PackedDataset.open(project.split)


def record(store: Store, experiment: str, made_with: Params, dataset: PackedDataset) -> None:
    """A run as stage train opens it."""
    client = store.client
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    client.create_run(experiment_id, tags=data_tags(made_with, dataset), run_name="cats-1")


def one_image_more(project: Project) -> None:
    Image.fromarray(np.full((16, 16, 3), 77, np.uint8)).save(project.raw / "trainA" / "more.png")


def test_other_images_under_a_derived_name_are_refused(project: Project) -> None:
    store = open_store(project, params().tracking)
    dataset = packed(project)
    refuse_other_images(store, params(), dataset)
    # The experiment does not matter: one name has one registered model.
    record(store, "elsewhere", params(), dataset)
    refuse_other_images(store, params(), dataset)

    one_image_more(project)
    grown = packed(project)
    with pytest.raises(
        UserError, match=r"^data\.name = null: cats already names other images \(run cats-1\); "
    ) as error:
        refuse_other_images(store, params(), grown)
    assert "set data.name: cats to continue" in str(error.value)
    assert len(str(error.value)) <= 160

    # With a name that is set, the training continues, and both data sets are known by it afterwards.
    refuse_other_images(store, params(name="cats"), grown)
    record(store, "cats", params(name="cats"), grown)
    for known in (dataset, grown):
        refuse_other_images(store, params(), known)
    refuse_other_images(store, params(folder_A="dogs/trainA", folder_B="dogs/trainB"), grown)


def test_the_name_of_a_public_data_set_is_accepted(project: Project) -> None:
    store = open_store(project, params().tracking)
    named = tiny(data={"source": "horse2zebra"}, train=CONSTANT)
    record(store, "horse2zebra", named, packed(project))
    one_image_more(project)
    refuse_other_images(store, named, packed(project))


def test_images_are_the_same_however_they_are_split_resized_or_named(project: Project) -> None:
    digest = packed(project).images_digest
    (project.raw / "trainA/0.png").rename(project.raw / "trainA/renamed.png")
    (project.raw / "valB/0.png").rename(project.raw / "trainB/moved.png")
    assert packed(project, load_size=32, seed=9).images_digest == digest
    one_image_more(project)
    assert packed(project).images_digest != digest
