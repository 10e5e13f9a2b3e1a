"""Which checkpoints of other trainings count, and how their differences are listed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cyclegan.experiment.earlier_trainings import (
    MAX_DIFFERENCES,
    differences,
    earlier_trainings,
    find_extendable,
    save_shapes,
)
from cyclegan.training.checkpoint import CheckpointFolder

STEPS_PER_EPOCH = 10


def shapes(epochs: int, **train: Any) -> dict[str, Any]:
    return {
        "data": "d1",
        "train": {"epochs": epochs, "crop_size": (16, 16), "learning_rate": 1e-4, **train},
        "code": {"training": "c1"},
    }


def trained(root: Path, name: str, made_of: dict[str, Any], step: int, when: int) -> Path:
    """A training's folder with a checkpoint of `step` and a modification time."""
    folder = root / name
    variables = {"weights": keras.Variable(np.zeros(2, np.float32))}
    CheckpointFolder(folder).save(step, variables, {"step": step, "run_id": f"run of {name}"})
    save_shapes(folder, made_of)
    os.utime(folder, (when, when))
    return folder


def test_the_longest_finished_shorter_training_is_extended(tmp_path: Path) -> None:
    trained(tmp_path, "short", shapes(2), 20, when=5)
    trained(tmp_path, "longer", shapes(3), 30, when=1)
    trained(tmp_path, "unfinished", shapes(4), 35, when=6)
    trained(tmp_path, "too-long", shapes(9), 90, when=7)
    trained(tmp_path, "other", shapes(4, learning_rate=1e-3), 40, when=8)
    trained(tmp_path, "other-data", {**shapes(4), "data": "d2"}, 40, when=9)
    trained(tmp_path, "other-code", {**shapes(4), "code": {"training": "c2"}}, 40, when=10)
    found = find_extendable(tmp_path, tmp_path / "own", shapes(5), STEPS_PER_EPOCH)
    assert found is not None
    assert (found.checkpoints.path.name, found.epochs, found.step, found.run_id) == ("longer", 3, 30, "run of longer")
    assert find_extendable(tmp_path, tmp_path / "own", shapes(2), STEPS_PER_EPOCH) is None
    assert find_extendable(tmp_path / "nothing", tmp_path / "own", shapes(5), STEPS_PER_EPOCH) is None


def test_other_trainings_with_intact_checkpoints_are_listed_newest_first(tmp_path: Path) -> None:
    own = trained(tmp_path, "own", shapes(2), 20, when=9)
    trained(tmp_path, "old", shapes(3), 30, when=1)
    trained(tmp_path, "new", shapes(4), 40, when=2)
    save_shapes(tmp_path / "never-saved", shapes(5))
    corrupt = trained(tmp_path, "corrupt", shapes(6), 60, when=3)
    (corrupt / "step-000000060.npz").write_bytes(b"")
    assert [training.checkpoints.path.name for training in earlier_trainings(tmp_path, own)] == ["new", "old"]


def test_differences_have_both_values() -> None:
    old, new = shapes(2), shapes(2, learning_rate=5e-4, flip=True)
    new["code"], new["data"] = {"training": "c2"}, "d2"
    old["train"]["crop_size"] = [16, 16]
    assert differences(old, old) == []
    assert differences(old, new) == [
        "data: changed",
        "train.learning_rate: 0.0001 -> 0.0005",
        "code.training: changed",
        "train.flip: None -> True",
    ]
    many = differences({}, {f"key{n:02d}": n for n in range(MAX_DIFFERENCES + 5)})
    assert len(many) == MAX_DIFFERENCES
    assert many[-1] == "and 6 more"
