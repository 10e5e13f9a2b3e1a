"""A finished training with more epochs, and a diverged training: their printed lines and MLflow runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from cyclegan.models.translator import load_generator
from cyclegan.params import read
from cyclegan.project import Project
from cyclegan.stages import split, train
from cyclegan.system.errors import UserError
from tiny import paint

ROOT = Path(__file__).parents[2]
COMMITTED = read(ROOT / "params.yaml")
TINY: dict[str, dict[str, Any]] = {
    "data": {"load_size": 16, "name": "extending"},
    "model": {"generator": "resnet", "base_filters": 2, "blocks": 0, "padding": "same", "upsample": "resize"}
    | {"patch_layers": 1, "discriminator_filters": 2, "residual_output": False},
    "train": {"crop_size": 16, "epochs": 1, "steps_per_epoch": 5, "log_every": 4, "evaluate_every": 1, "pool_size": 2},
}

Start = Callable[..., Project]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Train in a project of its own, with some parameters changed."""
    project = Project(root=tmp_path, home=tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "features").symlink_to(ROOT / "data" / "features")
    paint(project)

    def run(**options: Any) -> Project:
        tree = {section: {**values, **TINY.get(section, {})} for section, values in COMMITTED.items()}
        tree["train"] |= options
        YAML().dump(tree, project.params)
        if not project.split.exists():
            split.run(project)
        train.run(project)
        return project

    return run


def weights(project: Project) -> list[np.ndarray]:
    return [
        array
        for direction in ("AtoB", "BtoA")
        for array in load_generator(project.models / f"generator_{direction}.keras").get_weights()
    ]


def run_of(project: Project) -> tuple[Run, MlflowClient]:
    client = MlflowClient(tracking_uri=f"sqlite:///{project.mlruns}/mlflow.db")
    return client.get_run(json.loads((project.reports / "train" / "run.json").read_text())["run_id"]), client


CONSTANT = {"lr_policy": "constant", "lr_decay_start": None}


@pytest.mark.slow
def test_an_extended_training_with_constant_rate_equals_an_uninterrupted_one(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    first, client = run_of(start(epochs=1, **CONSTANT))
    project = start(epochs=3, **CONSTANT)
    assert "extending the finished training of 1 epochs (step 5, MLflow run " in capsys.readouterr().out
    extended = weights(project)
    losses, validation = (pd.read_csv(project.reports / "train" / f"{name}.csv") for name in ("losses", "validation"))
    assert list(losses["step"]) == [4, 5, 8, 10, 12, 15]
    run, _ = run_of(project)
    assert run.info.run_id != first.info.run_id
    assert run.data.tags["cyclegan.extended_from"] == first.info.run_id
    assert run.data.tags["cyclegan.extended_from_step"] == "5"
    assert run.data.params["train.epochs"] == "3"
    for name, steps in (("2_G_AtoB/total", [4, 5, 8, 10, 12, 15]), ("1_val_AtoB/cycle_l1", [5, 10, 15])):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == steps, name
    # The run and the checkpoint of the first training stay as they were.
    assert client.get_run(first.info.run_id).data.params["train.epochs"] == "1"
    assert [point.step for point in client.get_metric_history(first.info.run_id, "2_G_AtoB/total")] == [4, 5]

    start(epochs=3, extend=False, **CONSTANT)
    printed = capsys.readouterr().out
    assert "extending" not in printed
    assert "train.extend: True -> False" in printed
    for got, expected in zip(extended, weights(project), strict=True):
        np.testing.assert_array_equal(got, expected)
    pd.testing.assert_frame_equal(pd.read_csv(project.reports / "train" / "losses.csv"), losses)
    pd.testing.assert_frame_equal(pd.read_csv(project.reports / "train" / "validation.csv"), validation)


@pytest.mark.slow
def test_a_linear_rate_continues_with_the_schedule_of_the_new_length(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = {"lr_policy": "linear", "lr_decay_start": 0.5, "learning_rate": 0.001}
    start(epochs=2, **linear)
    capsys.readouterr()
    project = start(epochs=4, **linear)
    # Step 10 of 20 lies where the new decay begins.
    assert "its learning rate ended at 0.0002 and continues at 0.001 (linear over 4 epochs)" in capsys.readouterr().out
    losses = pd.read_csv(project.reports / "train" / "losses.csv")
    assert list(losses["step"]) == [4, 5, 8, 10, 12, 15, 16, 20]
    # The rate of a window is that of its last step, counted from 0.
    assert losses["learning_rate"].tolist() == pytest.approx([1e-3, 1e-3, 6e-4, 2e-4, 9e-4, 6e-4, 5e-4, 1e-4], rel=1e-3)
    start(epochs=4, **linear)
    assert "resuming at step 20 of 20" in capsys.readouterr().out


@pytest.mark.slow
def test_extending_can_be_disabled(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start(epochs=1, extend=False)
    start(epochs=2, extend=False)
    printed = capsys.readouterr().out
    assert "extending" not in printed
    assert "differs:\n  train.epochs: 1 -> 2\n" in printed


@pytest.mark.slow
def test_a_diverged_training_is_a_failed_run_with_the_reason(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training diverged: (\S+) became .* by step \d+; the last checkpoint is kept"):
        start(epochs=4, learning_rate=1e15)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("extending").experiment_id])
    assert run.info.status == "FAILED"
    assert " became " in run.data.tags["cyclegan.diverged"]
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_diverged_training_with_retries_is_a_finished_run_with_complete_series(start: Start) -> None:
    project = start(epochs=2, learning_rate=1e15, on_divergence={"retries": 2, "factor": 1e-19})
    run, client = run_of(project)
    assert run.info.status == "FINISHED"
    assert "back to step 0, learning rate times 1e-19" in run.data.tags["cyclegan.diverged.1"]
    assert "cyclegan.diverged" not in run.data.tags
    points = client.get_metric_history(run.info.run_id, "2_G_AtoB/total")
    assert [point.step for point in points] == [4, 5, 8, 10]
    assert np.isfinite([point.value for point in points]).all()
