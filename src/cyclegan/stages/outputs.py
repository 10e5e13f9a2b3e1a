"""What stage `train` leaves for the stages after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclegan.domains import DIRECTIONS, Direction
from cyclegan.errors import UserError
from cyclegan.project import Project
from cyclegan.tracking.runs import TrackedRun
from cyclegan.tracking.store import Store


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


def attach(store: Store, training: dict[str, Any]) -> TrackedRun:
    """The training's MLflow run, open for what later stages add to it."""
    name = f"{training['dataset']}-{training['run_key'][:8]}"
    return TrackedRun.attach(store, training["run_id"], experiment=training["experiment"], name=name)


def measured(figures: Mapping[str, Any]) -> dict[str, float]:
    """The measured figures of one direction of `metrics.json`, without the counts and the nested baseline."""
    return {name: value for name, value in figures.items() if isinstance(value, float)}
