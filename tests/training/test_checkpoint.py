"""Checkpoints: what comes back, and what is not trusted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from cyclegan.system.digests import code_digest, run_key
from cyclegan.training.checkpoint import CheckpointFolder, NotFiniteError


@pytest.fixture
def variables() -> dict[str, keras.Variable]:
    return {
        "weights": keras.Variable(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "step": keras.Variable(3, dtype="int64"),
    }


def save_steps(folder: CheckpointFolder, variables: dict[str, keras.Variable], *steps: int) -> None:
    for step in steps:
        variables["step"].assign(step)
        variables["weights"].assign(np.full((2, 3), step, np.float32))
        folder.save(step, variables, {"step": step})


def test_restores_the_newest_and_keeps_the_last_few(tmp_path: Path, variables: dict[str, keras.Variable]) -> None:
    folder = CheckpointFolder(tmp_path / "run", keep=2)
    save_steps(folder, variables, 10, 20, 30)
    variables["weights"].assign(np.zeros((2, 3), np.float32))
    assert folder.restore(variables) == {"step": 30}
    assert float(variables["weights"].numpy().max()) == 30
    assert sorted(path.name for path in folder.path.glob("*.npz")) == ["step-000000020.npz", "step-000000030.npz"]


def test_nothing_to_restore(tmp_path: Path, variables: dict[str, keras.Variable]) -> None:
    assert CheckpointFolder(tmp_path / "none").restore(variables) is None


def test_the_record_of_a_long_run_takes_a_byte_for_each_letter(
    tmp_path: Path, variables: dict[str, keras.Variable]
) -> None:
    folder, record = CheckpointFolder(tmp_path), {"losses": [{"step": step} for step in range(5000)], "name": "Über"}
    folder.save(1, variables, record)
    assert folder.restore(variables) == folder.progress() == record
    assert (tmp_path / "step-000000001.npz").stat().st_size < len(json.dumps(record)) + 2000


@pytest.mark.parametrize("damage", ["truncate", "flip a bit", "no sum", "empty sum"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, variables: dict[str, keras.Variable], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path)
    save_steps(folder, variables, 10, 20)
    newest = tmp_path / "step-000000020.npz"
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flip a bit":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "no sum":
        newest.with_suffix(".sha256").unlink()
    else:
        newest.with_suffix(".sha256").write_text("")
    assert folder.restore(variables) == {"step": 10}
    assert int(variables["step"]) == 10
    assert "step-000000020.npz: checkpoint is incomplete or altered" in caplog.text


def test_an_incomplete_newer_checkpoint_takes_nobodys_place(
    tmp_path: Path, variables: dict[str, keras.Variable]
) -> None:
    """The process was killed before the sum was written, and the resumed one saves at an earlier step."""
    folder = CheckpointFolder(tmp_path, keep=1)
    save_steps(folder, variables, 50, 100)
    (tmp_path / "step-000000100.sha256").unlink()
    save_steps(folder, variables, 75)
    assert folder.restore(variables) == {"step": 75}
    assert folder.steps() == [75]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_not_written(
    tmp_path: Path, variables: dict[str, keras.Variable], value: float
) -> None:
    folder = CheckpointFolder(tmp_path)
    save_steps(folder, variables, 10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    variables["weights"].assign(np.array([[0, 0, 0], [0, value, 0]], np.float32))
    with pytest.raises(NotFiniteError, match="weights"):
        folder.save(20, variables, {"step": 20})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_that_is_not_finite_is_passed_over(
    tmp_path: Path, variables: dict[str, keras.Variable], caplog: pytest.LogCaptureFixture
) -> None:
    """One written by an earlier version, say: its sum is right."""
    folder = CheckpointFolder(tmp_path)
    save_steps(folder, variables, 10, 20)
    newest = tmp_path / "step-000000020.npz"
    with np.load(newest) as saved:
        arrays = {**saved, "weights": np.full((2, 3), np.nan, np.float32)}
    np.savez(newest, **arrays)
    newest.with_suffix(".sha256").write_text(hashlib.sha256(newest.read_bytes()).hexdigest())
    assert folder.restore(variables) == {"step": 10}
    assert float(variables["weights"].numpy().max()) == 10
    assert "step-000000020.npz: checkpoint has NaN or infinity in weights" in caplog.text


def test_keys_follow_everything_that_shapes_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code_digest(tmp_path)
    assert first == code_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert code_digest(tmp_path) != first
    assert run_key({"train": {"epochs": 2}, "data": "d"}) != run_key({"train": {"epochs": 3}, "data": "d"})
    assert run_key({"a": 1, "b": 2}) == run_key({"b": 2, "a": 1})
