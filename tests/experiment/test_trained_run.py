"""The file `run.json`, which later versions must read from existing projects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cyclegan.experiment.trained_run import TrainedRun
from cyclegan.project import Project
from cyclegan.system.errors import UserError

TRAINED = TrainedRun(
    run_id="0" * 32,
    experiment="emoji",
    dataset="emoji",
    run_key="1" * 16,
    steps=6,
    epochs=1,
    kept={"select": "kid", "step": 6, "epoch": 1.0, "value": 0.5},
    adversarial_loss="least_squares",
    seconds=1.5,
    device="CPU (2 cores)",
    data_md5="2" * 32 + ".dir",
    search={"origin": {}, "replaced": {}},
    images={"A": 36, "B": 40},
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(root=tmp_path, home=tmp_path)


def test_what_is_saved_is_loaded(project: Project) -> None:
    TRAINED.save(project)
    assert TrainedRun.load(project) == TRAINED
    assert list(json.loads((project.reports / "train/run.json").read_text())) == [
        *("run_id", "experiment", "dataset", "run_key", "steps", "epochs", "kept"),
        *("adversarial_loss", "seconds", "device", "data_md5", "search", "images"),
    ]


def test_a_file_without_a_search_and_with_more_keys_is_read(project: Project) -> None:
    file = project.reports / "train/run.json"
    TRAINED.save(project)
    found = json.loads(file.read_text())
    del found["search"]
    file.write_text(json.dumps(found | {"later": 1}))
    assert TrainedRun.load(project) == replace(TRAINED, search={})


def test_missing_keys_are_refused(project: Project) -> None:
    file = project.reports / "train/run.json"
    TRAINED.save(project)
    found = json.loads(file.read_text())
    del found["kept"], found["steps"]
    file.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"run\.json: .*without kept, steps.*dvc repro --force train"):
        TrainedRun.load(project)
