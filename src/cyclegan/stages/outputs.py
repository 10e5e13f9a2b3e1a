"""What stage `train` leaves for the stages after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cyclegan.domains import DIRECTIONS, Direction
from cyclegan.errors import UserError
from cyclegan.project import Project
from cyclegan.tracking.runs import TrackedRun
from cyclegan.tracking.store import Store


def training_run(project: Project) -> dict[str, Any]:
    """What stage `train` said of its run.

    Raises:
        UserError: it has not run, or its word is damaged.
    """
    keys = {"run_id", "experiment", "dataset", "run_key", "steps", "epochs", "seconds", "device", "data_md5"}
    return _report(project.reports / "train" / "run.json", keys, "train")


def test_figures(project: Project) -> dict[str, Any]:
    """What stage `evaluate` measured, by direction.

    Raises:
        UserError: it has not run, or its word is damaged.
    """
    return _report(project.reports / "evaluate" / "metrics.json", {*DIRECTIONS, "protocol"}, "evaluate")


def training_curves(project: Project) -> list[pd.DataFrame]:
    """The losses and the validation figures that stage `train` wrote down.

    Raises:
        UserError: they are missing or damaged.
    """
    return [_curve(project.reports / "train" / f"{name}.csv") for name in ("losses", "validation")]


def _curve(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise UserError(f"{file} does not exist: train first ('dvc repro train')")
    try:
        return pd.read_csv(file)
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): make it anew with 'dvc repro --force train'") from None


def _report(file: Path, keys: set[str], stage: str) -> dict[str, Any]:
    """A JSON file that holds at least these keys."""
    if not file.is_file():
        raise UserError(f"{file} does not exist: {stage} first ('dvc repro {stage}')")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        missing = sorted(keys - set(found)) if isinstance(found, dict) else ["a mapping"]
        reason = f"without {', '.join(missing)}" if missing else ""
    except ValueError as error:
        reason = f"not JSON: {error}"
    if reason:
        raise UserError(f"{file} is damaged ({reason}): make it anew with 'dvc repro --force {stage}'")
    return found


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
