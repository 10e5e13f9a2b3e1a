"""Outputs of stages `train` and `evaluate`, as later stages read them."""

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
    """All metrics of stage `evaluate`, by direction.

    Raises:
        UserError: the file is missing or corrupt.
    """
    return read_report(project.reports / "evaluate" / "details.json", {*DIRECTIONS, "protocol"}, "evaluate")


def training_curves(project: Project) -> list[pd.DataFrame]:
    """The losses and the validation metrics of stage `train`.

    Raises:
        UserError: a file is missing or corrupt.
    """
    return [_curve(project.reports / "train" / f"{name}.csv") for name in ("losses", "validation")]


def training_images(project: Project) -> np.ndarray | None:
    """The samples over time of stage `train`, [H, W, 3]; None after a training outside the pipeline without them.

    Raises:
        UserError: the image is corrupt.
    """
    file = project.reports / "train" / "over_time.png"
    if not file.is_file():
        return None
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    # Codecs raise almost any exception on a corrupt file. An OSError with an errno comes from the system.
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise UserError(f"{file}: corrupt ({one_line(error)}); regenerate it with 'dvc repro --force train'") from error


def _curve(file: Path) -> pd.DataFrame:
    require_file(file, "train")
    try:
        return pd.read_csv(file)
    except ValueError as error:
        raise UserError(f"{file}: corrupt ({error}); regenerate it with 'dvc repro --force train'") from None


def require_file(file: Path, stage: str) -> None:
    """Check that the output of a stage exists.

    Raises:
        UserError: it does not.
    """
    if not file.is_file():
        raise UserError(f"{file}: does not exist; run 'dvc repro {stage}' first")


def read_report(file: Path, keys: set[str], stage: str) -> dict[str, Any]:
    """Read a JSON file of a stage and check that it has these keys.

    Raises:
        UserError: the file is missing or corrupt.
    """
    require_file(file, stage)
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        missing = sorted(keys - set(report)) if isinstance(report, dict) else ["a mapping"]
        reason = f"without {', '.join(missing)}" if missing else ""
    except ValueError as error:
        reason = f"not JSON: {error}"
    if reason:
        raise UserError(f"{file}: corrupt ({reason}); regenerate it with 'dvc repro --force {stage}'")
    return report


def generator_files(project: Project) -> dict[Direction, Path]:
    """The generator files of stage `train`."""
    return {direction: project.models / f"generator_{direction}.keras" for direction in DIRECTIONS}


def open_store_and_deliver(project: Project, tracking: Tracking) -> Store:
    """Open the MLflow store, and deliver to it what earlier trainings could not.

    Raises:
        UserError: the store cannot be used.
    """
    store = open_store(project, tracking)
    deliver_waiting(store)
    return store


def only_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one direction of `details.json`, without the counts and the nested identity baseline."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
