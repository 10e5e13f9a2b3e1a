"""Checkpoints of other trainings: which one a training may extend, and how it differs from the newest one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan.params import flatten
from cyclegan.system.files import write_json
from cyclegan.training.checkpoint import CheckpointFolder

# File beside a training's checkpoints with everything that shapes its weights.
SHAPES_FILE = "shapes.json"

# Maximum number of differences that are printed.
MAX_DIFFERENCES = 12


@dataclass(frozen=True)
class EarlierTraining:
    """Another training of this project that has a checkpoint.

    Attributes:
        checkpoints: its checkpoints.
        shapes: everything that shapes its weights.
        step: of its newest checkpoint.
        run_id: its MLflow run.
    """

    checkpoints: CheckpointFolder
    shapes: dict[str, Any]
    step: int
    run_id: str | None

    @property
    def epochs(self) -> int:
        return int(self.shapes["train"]["epochs"])


def save_shapes(folder: Path, shapes: Mapping[str, Any]) -> None:
    """Write everything that shapes a training's weights into the folder of its checkpoints."""
    write_json(folder / SHAPES_FILE, _to_json_types(shapes))


def earlier_trainings(
    root: Path, own: Path, is_wanted: Callable[[dict[str, Any]], bool] = lambda shapes: True
) -> Iterator[EarlierTraining]:
    """The other trainings with checkpoints under `root` and wanted shapes, latest first."""
    files = [file for file in root.glob(f"*/{SHAPES_FILE}") if file.parent != own]
    for file in sorted(files, key=lambda file: file.parent.stat().st_mtime, reverse=True):
        shapes = json.loads(file.read_text(encoding="utf-8"))
        folder = CheckpointFolder(file.parent)
        # Test the shapes first, because `progress` verifies the checksum of a checkpoint, which may be large.
        if is_wanted(shapes) and (progress := folder.progress()):
            yield EarlierTraining(folder, shapes, progress["step"], progress["run_id"])


def find_extendable(root: Path, own: Path, shapes: Mapping[str, Any], steps_per_epoch: int) -> EarlierTraining | None:
    """The longest finished training that differs from `shapes` only in a smaller number of epochs."""

    def without_epochs(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {**tree, "train": {**tree["train"], "epochs": None}}

    own_shapes = _to_json_types(shapes)

    def is_shorter(tree: dict[str, Any]) -> bool:
        is_same = without_epochs(tree) == without_epochs(own_shapes)
        return is_same and tree["train"]["epochs"] < own_shapes["train"]["epochs"]

    shorter = earlier_trainings(root, own, is_shorter)
    finished = [training for training in shorter if training.step == training.epochs * steps_per_epoch]
    return max(finished, key=lambda training: training.epochs, default=None)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The values that differ, one line each: `train.learning_rate: 0.0005 -> 0.0002`, `code.training: changed`."""
    old_values, new_values = dict(flatten(old)), dict(flatten(_to_json_types(new)))
    lines = []
    for key in {**old_values, **new_values}:
        if key not in old_values or key not in new_values or old_values[key] != new_values[key]:
            is_digest = key.split(".")[0] in ("code", "data")
            lines.append(f"{key}: {'changed' if is_digest else f'{old_values.get(key)} -> {new_values.get(key)}'}")
    if len(lines) <= MAX_DIFFERENCES:
        return lines
    return [*lines[: MAX_DIFFERENCES - 1], f"and {len(lines) - MAX_DIFFERENCES + 1} more"]


def _to_json_types(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The same as read from a JSON file, where tuples are lists."""
    return json.loads(json.dumps(shapes))
