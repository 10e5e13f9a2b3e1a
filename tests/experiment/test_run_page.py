"""What a training's MLflow run records, and its description."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cyclegan.experiment.run_page import DescribedRun, result_page
from cyclegan.experiment.trained_run import TrainedRun, new_run_name
from cyclegan.experiment.training_setup import recorded_params
from cyclegan.params import Params, Tracking, flatten
from cyclegan.project import Project
from cyclegan.tracking.description import yaml_value
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import open_store

PARAMS = Params.model_validate(
    {
        "data": {"name": "emoji", "names": ["flat", "3D"], "load_size": 64},
        "train": {"crop_size": 64, "loss_weights": {"identity": 2.0}, "lr_policy": "constant"},
    }
)
TRAINED = TrainedRun(
    *("0" * 32, "emoji", "emoji", "1" * 16, 12, 2),
    kept={"select": "kid", "step": 6, "epoch": 1.0, "value": 0.5},
    adversarial_loss="least_squares",
    seconds=1.5,
    device="CPU",
    data_md5="2" * 32,
)
METRICS = {
    "AtoB": {"pair_psnr": 20.5, "kid": 0.1, "cycle_l1": 0.02, "identity": {"pair_psnr": 19.84, "kid": 0.3}},
    "BtoA": {"kid": 0.2, "cycle_l1": 0.03, "identity": {"kid": 0.4}},
}


def test_a_run_records_the_main_parameters_and_those_that_are_not_default() -> None:
    recorded = recorded_params(PARAMS)
    assert recorded["train.epochs"] == Params().train.epochs
    assert recorded["train.lr_policy"] == "constant"
    assert recorded["train.loss_weights.identity.AtoB"] == 2.0
    # The defaults of other parameters, and the names of the data, are in params.yaml.
    assert not {"train.beta_1", "data.name", "data.names", "data.source", "model.dropout"} & set(recorded)
    assert len(recorded) < len(list(flatten(PARAMS.model_dump()))) / 2
    assert yaml_value(recorded["data.load_size"]) == "64"


def test_a_run_is_named_by_domains_or_data_time_and_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "wide")
    assert re.fullmatch(r"flat-3D \d\d-\d\d \d\d:\d\d wide", new_run_name(PARAMS))
    monkeypatch.delenv("DVC_EXP_NAME")
    unnamed = Params.model_validate({"data": {"name": "emoji"}})
    assert re.fullmatch(r"emoji \d\d-\d\d \d\d:\d\d resnet", new_run_name(unnamed))


def test_the_result_has_images_metrics_with_baseline_commands_and_links() -> None:
    page = result_page(PARAMS, TRAINED, METRICS)
    # MLflow shows the first lines only.
    assert page.startswith("![grid.png](get-artifact?path=grid.png&run_uuid={run_id})")
    for row in (
        "test split | flat → 3D | identity baseline | 3D → flat | identity baseline",
        "pair_psnr | 20.5 | 19.84 | – | –",
        "kid | 0.1 | 0.3 | 0.2 | 0.4",
    ):
        assert f"| {row} |\n" in page
    assert "cyclegan translate models/generator_AtoB.keras IMAGE" in page
    assert "(get-artifact?path=evaluate%2Freport.html&run_uuid={run_id})" in page
    registered = result_page(PARAMS, TRAINED, METRICS, {"models:/emoji-AtoB/1": "It is champion."})
    assert "It is champion." in registered
    assert "cyclegan translate models:/emoji-AtoB/1 IMAGE" in registered


def test_the_description_follows_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(Project(root=tmp_path, home=tmp_path), Tracking(uri=None, experiment=None, offline=False))
    with TrackedRun.start(store, experiment="e", name="n", params={}, steps_per_epoch=6) as tracked:
        run = DescribedRun(tracked, PARAMS, total_steps=12)
        for step in (6, 12):
            run.log_metrics(step, {"val_AtoB/kid": 1 / step, "val_BtoA/kid": 0.5})
            for way in ("AtoB", "BtoA"):
                run.log_image(step, f"samples/{way}", np.zeros((4, 4, 3), np.uint8))
    page = store.client.get_run(tracked.id).data.tags["mlflow.note.content"]
    for way in ("AtoB", "BtoA"):
        assert f"path=samples%2F{way}_epoch_002.png&run_uuid={tracked.id})" in page
    assert "step 12 of 12" in page
    assert "| kid | 0.08333 | 0.5 |" in page
    assert [file.path for file in store.client.list_artifacts(tracked.id, "samples")] == [
        f"samples/{way}_epoch_{epoch:03}.png" for way in ("AtoB", "BtoA") for epoch in (1, 2)
    ]
