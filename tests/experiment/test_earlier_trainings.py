"""Which other run's checkpoint counts, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cyclegan.experiment.earlier_trainings import LINES, differences, relatives, remember, shorter_finished
from cyclegan.training.checkpoint import CheckpointFolder

STEPS_PER_EPOCH = 10


def shapes(epochs: int, **train: Any) -> dict[str, Any]:
    return {
        "data": "d1",
        "train": {"epochs": epochs, "crop_size": (16, 16), "learning_rate": 1e-4, **train},
        "code": {"training": "c1"},
    }


def trained(root: Path, name: str, made_of: dict[str, Any], step: int, when: int) -> Path:
    """A run's folder with a checkpoint of `step`, last written at a time."""
    folder = root / name
    variables = {"weights": keras.Variable(np.zeros(2, np.float32))}
    CheckpointFolder(folder).save(step, variables, {"step": step, "run_id": f"run of {name}"})
    remember(folder, made_of)
    os.utime(folder, (when, when))
    return folder


def test_the_longest_finished_shorter_run_is_extended(tmp_path: Path) -> None:
    trained(tmp_path, "short", shapes(2), 20, when=5)
    trained(tmp_path, "longer", shapes(3), 30, when=1)
    trained(tmp_path, "unfinished", shapes(4), 35, when=6)
    trained(tmp_path, "too-long", shapes(9), 90, when=7)
    trained(tmp_path, "other", shapes(4, learning_rate=1e-3), 40, when=8)
    trained(tmp_path, "other-data", {**shapes(4), "data": "d2"}, 40, when=9)
    trained(tmp_path, "other-code", {**shapes(4), "code": {"training": "c2"}}, 40, when=10)
    found = shorter_finished(tmp_path, tmp_path / "own", shapes(5), STEPS_PER_EPOCH)
    assert found is not None
    assert (found.checkpoints.path.name, found.epochs, found.step, found.run_id) == ("longer", 3, 30, "run of longer")
    assert shorter_finished(tmp_path, tmp_path / "own", shapes(2), STEPS_PER_EPOCH) is None
    assert shorter_finished(tmp_path / "nothing", tmp_path / "own", shapes(5), STEPS_PER_EPOCH) is None


def test_a_run_is_no_relative_of_itself_and_the_newest_comes_first(tmp_path: Path) -> None:
    own = trained(tmp_path, "own", shapes(2), 20, when=9)
    trained(tmp_path, "old", shapes(3), 30, when=1)
    trained(tmp_path, "new", shapes(4), 40, when=2)
    remember(tmp_path / "never-saved", shapes(5))
    damaged = trained(tmp_path, "damaged", shapes(6), 60, when=3)
    (damaged / "step-000000060.npz").write_bytes(b"")
    assert [relative.checkpoints.path.name for relative in relatives(tmp_path, own)] == ["new", "old"]


def test_differences_are_named_with_both_values() -> None:
    before, now = shapes(2), shapes(2, learning_rate=5e-4, flip=True)
    now["code"], now["data"] = {"training": "c2"}, "d2"
    before["train"]["crop_size"] = [16, 16]
    assert differences(before, before) == []
    assert differences(before, now) == [
        "data: changed",
        "train.learning_rate: 0.0001 -> 0.0005",
        "code.training: changed",
        "train.flip: None -> True",
    ]
    many = differences({}, {f"key{n:02d}": n for n in range(LINES + 5)})
    assert len(many) == LINES
    assert many[-1] == "and 6 more"
