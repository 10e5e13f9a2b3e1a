"""What stage `train` leaves for the stages after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cyclegan.domains import DIRECTIONS, Direction
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.system.errors import UserError, one_line
from cyclegan.tracking.recovery import deliver_waiting
from cyclegan.tracking.store import Store, open_store


def test_metrics(project: Project) -> dict[str, Any]:
    """What stage `evaluate` measured, by direction.

    Raises:
        UserError: it has not run, or its file is corrupt.
    """
    return read_report(project.reports / "evaluate" / "metrics.json", {*DIRECTIONS, "protocol"}, "evaluate")


def training_curves(project: Project) -> list[pd.DataFrame]:
    """The losses and the validation metrics that stage `train` wrote down.

    Raises:
        UserError: they are missing or damaged.
    """
    return [_curve(project.reports / "train" / f"{name}.csv") for name in ("losses", "validation")]


def training_images(project: Project) -> np.ndarray | None:
    """The samples over time that stage `train` drew, [H, W, 3]; a training outside the pipeline may have left none.

    Raises:
        UserError: they are damaged.
    """
    file = project.reports / "train" / "over_time.png"
    if not file.is_file():
        return None
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    # Codecs raise nearly every type on a damaged file; an OSError with a number comes from the system.
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise UserError(
            f"{file} is damaged ({one_line(error)}): make it anew with 'dvc repro --force train'"
        ) from error


def _curve(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise UserError(f"{file} does not exist: train first ('dvc repro train')")
    try:
        return pd.read_csv(file)
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): make it anew with 'dvc repro --force train'") from None


def read_report(file: Path, keys: set[str], stage: str) -> dict[str, Any]:
    """A JSON file of a stage, which holds at least these keys.

    Raises:
        UserError: the stage has not run, or the file is corrupt.
    """
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


def opened_store(project: Project, tracking: Tracking) -> Store:
    """The store, with all in it that trainings could not deliver.

    Raises:
        UserError: it cannot be used.
    """
    store = open_store(project, tracking)
    deliver_waiting(store)
    return store


def measured(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The measured metrics of one direction of `metrics.json`, without the counts and the nested baseline."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
