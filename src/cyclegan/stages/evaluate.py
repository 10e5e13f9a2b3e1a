"""Stage `evaluate`: measure the trained generators on the test split, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cyclegan.data.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS, Direction
from cyclegan.errors import UserError
from cyclegan.evaluation.protocol import evaluate
from cyclegan.evaluation.report import draw, write_reports
from cyclegan.inference.translate import Translator, load_generator
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.runs import TrackedRun
from cyclegan.tracking.store import open_store


def run(project: Project) -> None:
    """Write `reports/evaluate/` and store it with the training's MLflow run."""
    params = load(project.params)
    training = training_run(project)
    store = open_store(project, params.tracking)
    dataset = PackedDataset.open(project.split)
    translators = {
        direction: Translator(load_generator(path), dataset.bit_depth, params.evaluate.batch_size)
        for direction, path in generator_files(project).items()
    }
    evaluation = evaluate(translators, dataset, "test")
    folder = project.reports / "evaluate"
    curves = [pd.read_csv(project.reports / "train" / f"{name}.csv") for name in ("losses", "validation")]
    write_reports(
        folder,
        evaluation,
        draw(translators, dataset, evaluation, params.evaluate.grid_images),
        title=params.data.dataset,
        run={
            "MLflow run": training["run_id"],
            "md5 of the data": training["data_md5"],
            "training": f"{training['epochs']} epochs, {training['steps']} steps",
            "training time": f"{training['seconds'] / 60:.1f} minutes",
            "device": training["device"],
            "commit": tags(project).get("git.commit"),
        },
        history=pd.concat(curves, ignore_index=True),
    )
    tracked = TrackedRun.attach(
        store,
        training["run_id"],
        experiment=training["experiment"],
        name=f"{params.data.dataset}-{training['run_key'][:8]}",
    )
    tracked.log_artifact(folder, "evaluate")
    for direction in DIRECTIONS:
        figures = evaluation.metrics[direction]
        print(
            direction, *(f"{name} {value:.4g}" for name, value in figures.items() if name.startswith("pair_")), sep="  "
        )


def training_run(project: Project) -> dict[str, Any]:
    """What stage `train` said of its run.

    Raises:
        UserError: it has not run.
    """
    file = project.reports / "train" / "run.json"
    if not file.is_file():
        raise UserError(f"{file} does not exist: train first ('dvc repro train')")
    return json.loads(file.read_text(encoding="utf-8"))


def generator_files(project: Project) -> dict[Direction, Path]:
    """Where stage `train` leaves the generators."""
    return {direction: project.models / f"generator_{direction}.keras" for direction in DIRECTIONS}
